"""Create a folder for `gllm serve --load-format dummy`: a config.json of benchmarks/shapes and a synthetic tokenizer.

    python benchmarks/dummy_model.py qwen3-8b /tmp/qwen3-8b

The tokenizer is byte-level BPE with a synthetic word for every id of the model's vocabulary, so that detokenizing costs
as much as with the real one.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SHAPES = Path(__file__).parent / "shapes"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_dummy_model(shape: str, folder: Path) -> Path:
    """Return `folder`, created if missing; raise FileNotFoundError for an unknown shape."""
    folder.mkdir(parents=True, exist_ok=True)
    config = Path(shutil.copy(SHAPES / shape / "config.json", folder))
    vocab_size = json.loads(config.read_text())["vocab_size"]
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces += [f"\u0120w{index:x}" for index in range(vocab_size - len(pieces) - len(SPECIAL))]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": SPECIAL[-1]}))
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(path.name for path in SHAPES.iterdir()))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(write_dummy_model(options.shape, options.folder))
