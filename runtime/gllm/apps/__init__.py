"""What a user starts: the `gllm` command, offline inference, chat, benchmarks, the simulator."""
