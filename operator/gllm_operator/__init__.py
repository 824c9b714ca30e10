"""The Kubernetes side of gLLM: watches LLMDeployments and owns their pods. Never imports torch."""
