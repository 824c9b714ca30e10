"""Generated token ids to text: detokenizer, stop strings and patterns, reasoning."""
