"""From strings to token ids and back: tokenizer, chat templates, text of answers, tool calls, grammars. No torch."""
