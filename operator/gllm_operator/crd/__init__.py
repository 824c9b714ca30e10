"""The CustomResourceDefinition, generated from `gllm_operator.api`."""
