"""Logits of a text as transformers computes them from a folder, in float32. Imports torch when called."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def has_transformers() -> bool:
    """Whether torch and transformers are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def transformers_logits(folder: Path, text: str) -> tuple[list[int], NDArray[np.float32], list[int]]:
    """Token ids, logits [tokens, vocab], and the ids at which generation stops.

    Nothing is fetched; code in the folder is not run.
    """
    import torch
    import transformers.utils.logging

    folder_only: Any = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **folder_only)
    ids = list(tokenizer(text)["input_ids"])
    bars: Any = transformers.utils.logging
    bars.disable_progress_bar()
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager", **folder_only
    )
    model.eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()
    ends = model.generation_config.eos_token_id
    return ids, np.asarray(logits, np.float32), ends if isinstance(ends, list) else [ends]
