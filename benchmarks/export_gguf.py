"""Write a GGUF file as a Hugging Face folder, so that two servers can be compared on the same weights."""

from __future__ import annotations

import json
from pathlib import Path


def export_gguf(gguf: Path, folder: Path) -> Path:
    """Dequantize `gguf` to bfloat16 and save weights, configuration, tokenizer and chat template in `folder`.

    Do nothing if the folder already has the export of this file. Needs torch and transformers.
    """
    done = folder / "exported.json"
    source = {"gguf": gguf.name, "bytes": gguf.stat().st_size}
    if done.exists() and json.loads(done.read_text()) == source:
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # from_pretrained(gguf_file=...) needs accelerate; the function that it calls does not.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    tensors = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise ValueError(f"{gguf.name}: tensors missing {sorted(set(missing) - tied)}, unexpected {unexpected}")
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    done.write_text(json.dumps(source))
    return folder
