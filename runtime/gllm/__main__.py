"""`python -m gllm` is the `gllm` command."""

from gllm.apps.cli.main import main

if __name__ == "__main__":
    main()
