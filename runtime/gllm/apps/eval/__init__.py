"""Output quality: public benchmarks through any OpenAI server, and a served model against transformers."""
