"""`gemlet tune`: teach a model a domain on this machine."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gemlet.cli.terminal import EXIT_INTERRUPTED, note, print_json
from gemlet.cli.tune_progress import TrainingProgress
from gemlet.errors import ConversationError, InvalidRequestError, MissingExtraError

if TYPE_CHECKING:
    from gemlet.model.weights import Loaded
    from gemlet.store.references import Found
    from gemlet.text.tokenizer import Tokenizer
    from gemlet.tune.data import Dataset
    from gemlet.tune.encoding import Template
    from gemlet.tune.settings import Settings
    from gemlet.tune.train import Progress

DESCRIPTION = """Train a model on your own examples: an adapter (LoRA), or all of its values.

DATA is a JSONL file, or a folder with train.jsonl and perhaps valid.jsonl and test.jsonl. A line holds
"messages", or "prompt" and "completion", or "text"; for preferences "prompt", "chosen" and "rejected".
Nothing leaves this machine. Ctrl-C ends a run with a checkpoint; --resume goes on to the same bits."""
EXAMPLES = (
    "gemlet tune tickets.jsonl -m gemma-3-1b-it -o tickets-adapter",
    "gemlet tune tickets.jsonl -m gemma-3-1b-it -o tickets-adapter --resume",
    "gemlet tune data/ -m gemma-3-1b-it -o out --check",
    "gemlet tune data/ -m gemma-3-1b-it -o out --base stored --memory 3.5",
    "gemlet run -m gemma-3-1b-it+./tickets-adapter -p 'My parcel is late'",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet tune`. Those of the settings are None where they are not given."""
    parser.add_argument("data", metavar="DATA", type=Path, help="a .jsonl file, or a folder of them")
    parser.add_argument("-m", "--model", metavar="REF", help="model name, path or org/repo")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="the run's folder")
    group = parser.add_argument_group("what is trained")
    group.add_argument("--method", metavar="M", help="lora (the default), full, or dpo for preferences")
    group.add_argument("--rank", type=int, metavar="N", help="of the adapter's matrices (16)")
    group.add_argument("--alpha", type=float, metavar="X", help="the adapter counts alpha / rank times (32)")
    group.add_argument("--rooted", action="store_true", default=None, help="alpha / sqrt(rank): rsLoRA")
    group.add_argument("--dropout", type=float, metavar="X", help="share of an adapter's inputs left out (0)")
    group.add_argument("--targets", metavar="NAMES", help="matrices, by comma (all): attn_q,attn_v,ffn_up,…")
    group.add_argument(
        "--base",
        metavar="B",
        help="frozen weights: dense (the default), or stored: 4 or 8 bits as in the file",
    )
    group = parser.add_argument_group("how")
    group.add_argument("--epochs", type=int, metavar="N", help="times that all examples are read (3)")
    group.add_argument("--batch-tokens", type=int, metavar="N", help="tokens of a step, at most (2048)")
    group.add_argument("--lr", type=float, metavar="X", help="highest rate (lora 2e-4, full 1e-5, dpo 2e-5)")
    group.add_argument(
        "--warmup", type=float, metavar="X", help="share of the steps in which it rises (0.03)"
    )
    group.add_argument("--weight-decay", type=float, metavar="X", help="AdamW's (0)")
    group.add_argument("--clip", type=float, metavar="X", help="largest norm of a gradient (1)")
    group.add_argument("--beta", type=float, metavar="X", help="of DPO (0.1)")
    group.add_argument("--precision", metavar="P", help="of products: bf16 (the default) or f32")
    group.add_argument("--seed", type=int, metavar="N", help="order, start and dropout (0)")
    group.add_argument("--valid-every", type=int, metavar="N", help="steps between validations (4 an epoch)")
    group.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="validations without a better loss that end the run (3; 0: none)",
    )
    group = parser.add_argument_group("data")
    group.add_argument("--length", type=int, metavar="N", help="tokens of an example, at most (1024)")
    group.add_argument("--cut", action="store_true", help="cut longer examples instead of refusing them")
    group.add_argument("--group-key", metavar="KEY", help="field whose values stay on one side of the split")
    group.add_argument("--check", action="store_true", help="read and check the data, and stop")
    group = parser.add_argument_group("the run")
    group.add_argument("--resume", action="store_true", help="go on with the run in OUT")
    group.add_argument("--memory", type=float, metavar="GB", help="use at most this (default: what is free)")
    group.add_argument("--no-report", action="store_true", help="do not measure what was gained and lost")
    group.add_argument(
        "--report-seconds", type=float, default=120.0, metavar="S", help="time for that, about (120)"
    )
    group.add_argument("--tensorboard", action="store_true", help="also write OUT/tensorboard")
    group = parser.add_argument_group("what to print")
    group.add_argument("--json", action="store_true", help="print one JSON document")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress and notices on standard error")


_SETTINGS = {
    "method": "method",
    "base": "base",
    "epochs": "epochs",
    "batch_tokens": "batch_tokens",
    "length": "length",
    "lr": "learning_rate",
    "warmup": "warmup",
    "weight_decay": "weight_decay",
    "clip": "clip",
    "beta": "beta",
    "precision": "precision",
    "seed": "seed",
    "valid_every": "valid_every",
    "patience": "patience",
}
"""Flags and the settings that they are."""
_LORA = ("rank", "alpha", "rooted", "dropout", "targets")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    settings = _settings(parsed)
    _job_module()
    from gemlet.tune.processes import Processes

    parsed.first = Processes.is_first()
    parsed.quiet = parsed.quiet or not parsed.first
    base = _Base(_resolve(parsed))
    dataset = base.dataset(parsed, settings)
    if not parsed.quiet:
        for line in dataset.report.lines():
            note(line)
    if parsed.check:
        if parsed.json:
            print_json({"data": dataset.report.as_json()})
        return 0
    return _train(parsed, settings, base, dataset)


def _settings(parsed: argparse.Namespace) -> Settings:
    """Of the flags; on `--resume` those of the run, which no flag may contradict."""
    from gemlet.tune.settings import LoraSettings, Settings

    given = {
        _SETTINGS[flag]: getattr(parsed, flag) for flag in _SETTINGS if getattr(parsed, flag) is not None
    }
    if given.get("patience") == 0:
        given["patience"] = None
    lora: dict[str, Any] = {
        name: getattr(parsed, name) for name in _LORA if getattr(parsed, name) is not None
    }
    if "targets" in lora:
        lora["targets"] = tuple(name.strip() for name in lora["targets"].split(","))
    if not parsed.resume:
        return Settings(**given, lora=LoraSettings(**lora))
    from gemlet.tune.job import read_run, settings_of

    before = settings_of(read_run(parsed.output))
    wanted = replace(before, **given, lora=replace(before.lora, **lora))
    if wanted != before:
        changed = [
            field.name
            for field in fields(before)
            if getattr(before, field.name) != getattr(wanted, field.name)
        ]
        raise InvalidRequestError(
            f"--resume: the run in {parsed.output} has another {', '.join(changed)}",
            hint="leave these flags out, or begin a new run with another -o",
        )
    return before


def _resolve(parsed: argparse.Namespace) -> Found:
    from gemlet.store.references import resolve

    found = resolve(parsed.model)
    if found.adapter is not None:
        hint = "merge it first: gemlet export writes a model with its adapter"
        raise InvalidRequestError("a model with an adapter cannot be trained further", hint=hint)
    if not parsed.quiet:
        for line in found.notices:
            note(line)
    return found


class _Base:
    """The model that is trained: its facts at once, its weights when they are asked for."""

    def __init__(self, found: Found) -> None:
        from gemlet.store.load import open_tokenizer

        self.found = found
        loaded = self.loaded()
        self.facts = loaded.facts
        self.tokenizer = open_tokenizer(loaded)
        self.template = _template(loaded, self.tokenizer)

    def loaded(self) -> Loaded:
        from gemlet.model.weights import load
        from gemlet.store.settings import cache_dir

        return load(self.found.path, "stored", cache_dir=cache_dir())

    def dataset(self, parsed: argparse.Namespace, settings: Settings) -> Dataset:
        from gemlet.tune.data import read_dataset

        return read_dataset(
            parsed.data,
            self.tokenizer,
            template=self.template,
            end_id=self.facts.config.stop_ids[0],
            method="dpo" if settings.method == "dpo" else "sft",
            length=settings.length,
            cut=parsed.cut,
            group_key=parsed.group_key,
            seed=settings.seed,
        )


def _template(loaded: Loaded, tokenizer: Tokenizer) -> Template:
    """How the model reads messages: its own template, or the format of its family, which a base is taught."""
    from gemlet.model.families import FAMILIES, GEMMA3
    from gemlet.store.load import open_chat_template
    from gemlet.text.template import render

    own = open_chat_template(loaded, tokenizer)
    if own is not None:
        return lambda messages, tools: own.render_learned(messages, tools=tools)
    if FAMILIES[loaded.facts.config.family] is GEMMA3:
        return lambda messages, tools: render(messages, tokenizer, tools=tools, add_generation_prompt=False)

    def refused(messages: object, tools: object) -> NoReturn:
        hint = 'give "prompt" and "completion", or train the instruction-tuned model of this family'
        raise ConversationError("this base model has no chat format", hint=hint)

    return refused


def _train(parsed: argparse.Namespace, settings: Settings, base: _Base, dataset: Dataset) -> int:
    from gemlet.cli.tune_results import Made
    from gemlet.text.template import JINJA_TEMPLATE

    job = _job_module()
    progress = TrainingProgress(parsed.quiet)
    teaches = base.facts.chat_template is None and dataset.has_messages
    order = job.Order(
        reference=base.found.reference,
        output=parsed.output,
        settings=settings,
        data={"path": parsed.data.name, "report": dataset.report.as_json()},
        chat_template=JINJA_TEMPLATE if teaches else None,
        available=_available(parsed),
        resume=parsed.resume,
    )
    with _stopping(parsed.quiet) as stop:
        listener = job.Listener(progress.forecast, _listeners(parsed, progress), stop)
        network, result = job.train(base.loaded, dataset, order, listener)
    progress.close()
    if not parsed.first:
        return 0
    if result.ending == "interrupted":
        note(f"stopped after step {result.steps}; --resume goes on from there")
        return EXIT_INTERRUPTED
    made = Made(base.found, parsed.output, settings, result, base.facts.licence)
    made.write(network)
    del network  # its memory is wanted for what follows
    report = None if parsed.no_report else made.report(dataset, parsed.report_seconds, parsed.quiet)
    if parsed.json:
        print_json(job.read_run(parsed.output) | {"report": report})
    else:
        print("\n".join(made.lines(report)))
    return 0


def _listeners(parsed: argparse.Namespace, shown: TrainingProgress) -> Callable[[Progress], None]:
    """Who is told of every step: the terminal, and TensorBoard's files if asked."""
    if not parsed.tensorboard:
        return shown.step
    from gemlet.tune.tensorboard import curves

    curve = curves(parsed.output / "tensorboard")

    def told(progress: Progress) -> None:
        shown.step(progress)
        curve(progress)

    return told


def _job_module() -> Any:
    try:
        from gemlet.tune import job
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("training", "tune") from None
    return job


def _available(parsed: argparse.Namespace) -> int | None:
    """Bytes that the run may use beyond what this process holds already."""
    from gemlet.machine.memory import memory, resident_bytes

    if parsed.memory is not None:
        if not 0 < parsed.memory < 1e6:
            raise InvalidRequestError(f"--memory: {parsed.memory} GB is no amount of memory")
        return max(0, int(parsed.memory * 1e9) - resident_bytes())
    return memory().available


@contextmanager
def _stopping(quiet: bool) -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C or SIGTERM asks for an end with a checkpoint; the second ends at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        if not quiet:
            note("stopping with a checkpoint; once more ends at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
