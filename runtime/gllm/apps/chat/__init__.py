"""A conversation in the terminal, with the engine in this process group or with any OpenAI server."""
