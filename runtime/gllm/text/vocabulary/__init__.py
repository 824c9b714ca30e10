"""A tokenizer's vocabulary: bytes of each token, GGUF vocabularies, the tokens that end a generation."""
