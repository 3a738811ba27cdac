"""A run's whole state in one safetensors file: what it was at a step, to the bit.

    parameter.NAME, exp_avg.NAME, exp_avg_sq.NAME   values and AdamW's two means of their gradients
    random                                          torch's generator, for what is left out at random
    metadata: state                                 JSON of `State`

Written beside and renamed: an interrupted write leaves the earlier checkpoints as they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from gemlet.errors import ModelFileError
from gemlet.formats.safetensors import read_arrays, write_safetensors

KEPT = 2
"""Checkpoints on disk: the newest, and one before it."""

BEST = "best.safetensors"
_NAME = re.compile(r"step-(\d{6,})\.safetensors")


@dataclass
class State:
    """Where a run is. step: optimizer steps done; tokens: read in them; seconds: spent on them.

    start_loss: of the validation before the first step. best_step and best_loss: of the best one since;
    worse: validations after it.
    """

    run: str
    step: int = 0
    start_loss: float | None = None
    best_step: int | None = None
    best_loss: float | None = None
    worse: int = 0
    seconds: float = 0.0
    tokens: int = 0

    @property
    def validation(self) -> tuple[float | None, int | None, float | None]:
        return self.start_loss, self.best_step, self.best_loss


def save(
    folder: Path, state: State, parameters: Mapping[str, Parameter], optimizer: torch.optim.AdamW
) -> Path:
    """Write the checkpoint of a step, and remove those before the last `KEPT`. OSError where it cannot be."""
    arrays: dict[str, np.ndarray[Any, Any]] = {"random": torch.get_rng_state().numpy()}
    for name, parameter in parameters.items():
        arrays[f"parameter.{name}"] = parameter.detach().numpy()
        for kind in ("exp_avg", "exp_avg_sq"):
            if parameter in optimizer.state:
                arrays[f"{kind}.{name}"] = optimizer.state[parameter][kind].numpy()
    path = folder / f"step-{state.step:06d}.safetensors"
    write_safetensors(path, arrays, {"state": json.dumps(asdict(state))})
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def restore(path: Path, run: str, parameters: Mapping[str, Parameter], optimizer: torch.optim.AdamW) -> State:
    """Put a checkpoint back. ModelFileError where it is not one of this run: other settings, data or base."""
    arrays, metadata = read_arrays(path)
    state = _state(path, metadata)
    if state.run != run:
        hint = "start anew in another folder, or give the settings, data and model that the run began with"
        raise ModelFileError(path, "run", "belongs to a run with other settings, data or model", hint=hint)
    for name, parameter in parameters.items():
        _copy(path, arrays, f"parameter.{name}", parameter.data)
        if state.step:
            means = {kind: torch.empty_like(parameter) for kind in ("exp_avg", "exp_avg_sq")}
            for kind, values in means.items():
                _copy(path, arrays, f"{kind}.{name}", values)
            optimizer.state[parameter] = {"step": torch.tensor(float(state.step)), **means}
    torch.set_rng_state(torch.from_numpy(np.array(arrays["random"])))
    return state


def save_values(path: Path, parameters: Mapping[str, Parameter]) -> None:
    """Write what is trained, and nothing else."""
    arrays = {f"parameter.{name}": parameter.detach().numpy() for name, parameter in parameters.items()}
    write_safetensors(path, arrays, {})


def restore_values(path: Path, parameters: Mapping[str, Parameter]) -> None:
    """Put back what `save_values` wrote. ModelFileError where it does not fit."""
    arrays, _ = read_arrays(path)
    for name, parameter in parameters.items():
        _copy(path, arrays, f"parameter.{name}", parameter.data)


def _state(path: Path, metadata: Mapping[str, str]) -> State:
    try:
        document = json.loads(metadata["state"])
        return State(**{field.name: document[field.name] for field in fields(State)})
    except (KeyError, TypeError, ValueError):
        raise ModelFileError(path, "state", "is not that of a checkpoint") from None


def _copy(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], name: str, target: Tensor) -> None:
    values = arrays.get(name)
    if values is None or values.shape != tuple(target.shape) or values.dtype != np.float32:
        raise ModelFileError(path, f"tensor {name!r}", "is missing or of another shape")
    target.copy_(torch.from_numpy(np.array(values)))
