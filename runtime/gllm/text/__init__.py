"""Converts strings to token ids and back: tokenizer, templates, text of answers, tool calls, grammars. No torch."""
