"""Generate text inside a Python program: `python examples/offline.py [MODEL]`."""

import sys

from gllm import LLM, SamplingParams
from gllm.hub.default_model import default_model_path


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else str(default_model_path())
    with LLM(model, max_model_len=2048) as llm:
        prompts = ["The capital of France is", "Water boils at"]
        for completion in llm.generate(prompts, SamplingParams(temperature=0, max_tokens=16)):
            print(f"{completion.prompt!r} -> {completion.text!r}")

        [answer] = llm.chat([{"role": "user", "content": "Name three colours."}], SamplingParams(max_tokens=48))
        print(answer.text)

        story = [{"role": "user", "content": "Tell me a very short story."}]
        for piece in llm.stream(story, SamplingParams(temperature=0.7, top_p=0.9, max_tokens=96, seed=1)):
            print(piece, end="", flush=True)
        print()


# LLM starts processes that import this file; the guard keeps them from starting more.
if __name__ == "__main__":
    main()
