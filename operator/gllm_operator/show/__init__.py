"""`gllm status`: an LLMDeployment of a cluster in the terminal."""
