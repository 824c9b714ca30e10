"""Chat messages to prompts: the Jinja sandbox, chat templates, tools in prompts, text that must stay text."""
