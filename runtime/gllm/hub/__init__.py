"""Models by name: found in the Hugging Face cache, or downloaded into it."""
