"""Models by name: find them in the Hugging Face cache, or download them into it."""
