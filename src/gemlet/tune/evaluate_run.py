"""The end of a training run: the model it began with and the model it left, opened and compared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gemlet.model.adapters import CONFIG, read_adapter
from gemlet.model.config import ModelConfig
from gemlet.model.weights import Loaded
from gemlet.model.weights import load as load_weights
from gemlet.store.load import load
from gemlet.store.references import resolve
from gemlet.tune.data import Dataset
from gemlet.tune.evaluation import HeldOut, Options, evaluate, write_evaluation
from gemlet.tune.moved import Moved, moved_between, moved_by_adapter
from gemlet.tune.sides import Side


def held_out_of(dataset: Dataset) -> HeldOut:
    """What the dataset keeps from training: its test split, or valid without one."""
    if dataset.test:
        return HeldOut(dataset.test, dataset.prompts, "test")
    return HeldOut(dataset.valid, dataset.prompts, "valid")


def evaluate_run(
    reference: str,
    folder: Path,
    held_out: HeldOut,
    options: Options | None = None,
    *,
    tuned: Path | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Evaluate what a run left in its folder, and write evaluation.json there.

    reference: of the base. tuned: the folder or file of a whole model that was trained or merged; without it
    the folder holds an adapter. Raises as `store.load.load` does, and OSError where it cannot be written.
    """
    with ExitStack() as opened:
        if tuned is None:
            name = f"{resolve(reference).path}+{folder.resolve()}"
            model = opened.enter_context(load(name, threads=threads, draft=False))
            (adapter,) = model.adapters
            before, after = Side(model, "base"), Side(model, adapter)
        else:
            before = Side(opened.enter_context(load(reference, threads=threads, draft=False)))
            after = Side(opened.enter_context(load(str(tuned), threads=threads, draft=False)))
        moved = _moved(reference, folder, tuned, after.model.config)
        document = evaluate(before, after, held_out, moved, options)
    write_evaluation(document, folder)
    return document


def _moved(reference: str, folder: Path, tuned: Path | None, config: ModelConfig) -> Sequence[Moved]:
    base = _stored(resolve(reference).path)
    if tuned is not None:
        return moved_between(base.weights, _stored(tuned).weights)
    assert (folder / CONFIG).is_file()  # it was just opened
    return moved_by_adapter(read_adapter(folder, config).parts, base.weights)


def _stored(path: Path) -> Loaded:
    """As the file has it: what a conversion to int8 loses is no movement."""
    return load_weights(path, "stored", cache_dir=None)
