"""Everything between strings and token ids: tokenizer, chat template, text stream, tool calls, grammars. No torch."""
