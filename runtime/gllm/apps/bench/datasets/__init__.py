"""The data sets of `--dataset-name`: files of prompts or lengths, and drawn prompts that share prefixes."""
