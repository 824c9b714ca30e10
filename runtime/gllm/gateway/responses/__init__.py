"""POST /v1/responses and its sub-resources: OpenAI's Responses API on top of a chat turn."""
