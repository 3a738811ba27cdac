"""A training run from its data to what it leaves in its folder."""

from __future__ import annotations

import importlib.metadata
import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import torch

from gemlet.errors import ModelFileError, OutputError
from gemlet.formats.files import read_json, replaced_file
from gemlet.machine import describe
from gemlet.machine.memory import resident_bytes
from gemlet.model.weights import Loaded
from gemlet.tune.adapter_folder import write_adapter
from gemlet.tune.checkpoint import KEPT
from gemlet.tune.memory import Cut, Memory, cut_to_fit, lora_values
from gemlet.tune.network import Network
from gemlet.tune.objective import Item, tokens_of
from gemlet.tune.processes import Processes
from gemlet.tune.settings import LoraSettings, Precision, Settings
from gemlet.tune.train import Progress, Result, Run
from gemlet.version import __version__

RUN = "run.json"
FORMAT = 1
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "f32": torch.float32}
_VALIDATION_COST = 0.4
"""Of a token that is only read, next to one that is learned from: no way back, few labels."""


class Data(Protocol):
    """What is trained on, and what is validated on, as `data.Dataset` has it."""

    @property
    def train(self) -> tuple[Item, ...]: ...
    @property
    def valid(self) -> tuple[Item, ...]: ...
    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class Order:
    """reference: of the base model, for the records. chat_template: a format that the base is taught, None
    where it has one or learns none. data: its path and report, for the records. available: bytes of memory
    that may be used, None for no limit."""

    reference: str
    output: Path
    settings: Settings
    data: dict[str, Any]
    chat_template: str | None = None
    available: int | None = None
    resume: bool = False


@dataclass(frozen=True)
class Forecast:
    """seconds: of training with its validations. memory_bytes: of the whole process. disk_bytes: of
    checkpoints and what the end writes."""

    steps: int
    tokens: int
    tokens_per_s: float
    seconds: float
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Listener:
    """Who is told: of the forecast, once; of every step and validation. stop: asked whether to end."""

    forecast: Callable[[Forecast], None] = lambda forecast: None
    progress: Callable[[Progress], None] = lambda progress: None
    stop: Callable[[], bool] = lambda: False


def train(
    loaded: Callable[[], Loaded], dataset: Data, order: Order, listener: Listener
) -> tuple[Network, Result]:
    """Train, and write the run's files; for LoRA the adapter too.

    loaded: opens the base model; its weights are let go as soon as the network holds its own.
    Raises OutputError for a folder that cannot be used, TrainingError where memory does not suffice or the
    loss becomes no number, ModelFileError for a checkpoint of another run.
    """
    folder, settings = order.output, order.settings
    processes = Processes()
    if processes.first:
        _prepare(order)
    held = resident_bytes()
    model = loaded()
    facts, sha256 = model.facts, model.weights.sha256
    longest = max(map(tokens_of, (*dataset.train, *dataset.valid)))
    cut = _cut(order, model, longest)
    network = Network(
        facts.config,
        model.weights,
        dtype=DTYPES[settings.precision],
        base=settings.base,
        lora=None if settings.method == "full" else settings.lora,
        seed=settings.seed,
        recompute=cut.recompute,
    )
    del model
    run = Run(
        network,
        settings,
        dataset.train,
        dataset.valid,
        folder,
        identity=f"{sha256} {dataset.sha256}",
        micro_tokens=cut.micro_tokens,
        processes=processes,
        stop=listener.stop,
    )
    resumed = order.resume and run.resume()
    forecast = _forecast(run, held + cut.memory.total)
    listener.forecast(forecast)
    document = _document(order, dataset, sha256, cut, forecast, processes)
    if processes.first and not resumed:
        _write(folder, document)
    began = time.monotonic()
    try:
        result = run.execute(listener.progress)
    finally:
        processes.close()
    if processes.first:
        document["result"] = asdict(result) | {
            "wall_seconds": time.monotonic() - began,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if settings.method != "full" and result.ending != "interrupted":
            write_adapter(folder, network, (order.reference, sha256), {"run": RUN}, order.chat_template)
        _write(folder, document)
    return network, result


def read_run(folder: Path) -> dict[str, Any]:
    """What an earlier run wrote of itself. ModelFileError where there is none, or one of another version."""
    document = read_json(folder / RUN)
    if document.get("gemlet_tune") != FORMAT:
        raise ModelFileError(folder / RUN, "gemlet_tune", f"is not {FORMAT}")
    return document


def settings_of(document: dict[str, Any]) -> Settings:
    """The settings of an earlier run, for one that goes on with it."""
    try:
        values = dict(document["settings"])
        if "lora" in values:
            lora = dict(values["lora"])
            values["lora"] = LoraSettings(**lora | {"targets": tuple(lora["targets"])})
        return Settings(**values)
    except (KeyError, TypeError) as error:
        raise ModelFileError(RUN, "settings", f"are not those of a run: {error}") from None


def _prepare(order: Order) -> None:
    folder = order.output
    if order.resume:
        read_run(folder)
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = "--resume goes on with the run in it; another -o begins a new one"
        raise OutputError(f"{folder}: exists already", hint=hint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error


def _cut(order: Order, model: Loaded, longest: int) -> Cut:
    """How steps are computed: as before where the run goes on, since another way has other roundings."""
    stored = sum(matrix.nbytes for matrix in model.weights.packed.values())
    if order.resume:
        cut = read_run(order.output)["cut"]
        return Cut(cut["micro_tokens"], cut["recompute"], Memory(**cut["memory"]))
    return cut_to_fit(model.facts.config, order.settings, stored, longest, order.available)


def _forecast(run: Run, memory_bytes: int) -> Forecast:
    rate = run.timed() * run.processes.count
    ahead = run.plan[run.state.step :]
    tokens = sum(tokens_of(run.train[index]) for step in ahead for index in step)
    validations = 1 + len(ahead) // run.valid_every
    read = validations * sum(map(tokens_of, run.valid)) * _VALIDATION_COST
    config, settings = run.network.config, run.settings
    full = settings.method == "full"
    trained = sum(config.parameter_counts().values()) if full else lora_values(config, settings)
    # Values and two means in each checkpoint, one set of values for the best, one for the result.
    disk = trained * 4 * (3 * (KEPT + 1) + 2)
    return Forecast(len(ahead), tokens, rate, (tokens + read) / rate, memory_bytes, disk)


def _document(
    order: Order, dataset: Data, sha256: str, cut: Cut, forecast: Forecast, processes: Processes
) -> dict[str, Any]:
    return {
        "gemlet_tune": FORMAT,
        "method": order.settings.method,
        "base": {"reference": order.reference, "weights_sha256": sha256},
        "data": order.data | {"sha256": dataset.sha256},
        "settings": order.settings.document(),
        "cut": asdict(cut),
        "processes": processes.count,
        "forecast": asdict(forecast),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe(),
        "versions": {
            "gemlet": __version__,
            "torch": torch.__version__,
            "numpy": importlib.metadata.version("numpy"),
        },
    }


def _write(folder: Path, document: dict[str, Any]) -> None:
    with replaced_file(folder / RUN) as file:
        file.write((json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
