"""The entry points: the `gllm` command, offline inference, chat, benchmarks, the simulator."""
