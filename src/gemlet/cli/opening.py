"""Opening a model for a verb: which one, with progress, notices and the time it took."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gemlet.cli.flags import check_sampling_flags
from gemlet.cli.progress import Progress
from gemlet.cli.terminal import is_screen, note
from gemlet.cli.terms import say_terms
from gemlet.machine.disturbance import activity, throttled
from gemlet.machine.threads import threads
from gemlet.store.settings import cache_dir


@dataclass(frozen=True)
class OpenModel:
    """A loaded model, the reference it was loaded by, and the seconds that took."""

    model: Any
    reference: str
    load_s: float


@contextmanager
def open_model(parsed: argparse.Namespace) -> Iterator[OpenModel]:
    """Load the model that the flags and settings name, once the sampling flags are checked."""
    started = time.perf_counter()
    load = loader(parsed)
    check_sampling_flags(parsed)
    with opened(load, parsed, parsed.model) as model:
        yield OpenModel(model, model.reference, time.perf_counter() - started)


def loader(parsed: argparse.Namespace) -> Any:
    """`load`, or what stands in for it. Called before anything else that imports the engine."""
    return parsed.load or _library_load()


def load_as(
    load: Any, parsed: argparse.Namespace, reference: str | None, progress: Any = None, **options: Any
) -> Any:
    """Load a model as the model flags say. `options`: further ones of `load`."""
    return load(
        reference,
        weights=parsed.weights,
        context=parsed.context,
        threads=parsed.threads,
        draft=parsed.draft,
        progress=progress,
        **options,
    )


@contextmanager
def opened(load: Any, parsed: argparse.Namespace, reference: str | None, **options: Any) -> Iterator[Any]:
    """`load_as` for a person who waits; the model is closed at the end.

    What the library has to say about the model (which one and why, corrections) goes to standard error.
    """
    progress = Progress("preparing the weights, once:", sys.stderr) if is_screen(sys.stderr) else None
    try:
        model = load_as(load, parsed, reference, progress, **options)
    finally:
        if progress is not None:
            progress.close()
    from gemlet.model.families import FAMILIES
    from gemlet.store.references import EMBEDDED

    with model:
        if not parsed.quiet:
            for line in model.notices:
                note(line)
            say_terms(FAMILIES[model.config.family].licence, cache_dir(), again=model.reference == EMBEDDED)
        if parsed.verbose:
            say_threads(parsed.threads)
        before = activity()
        try:
            yield model
        finally:
            if not parsed.quiet and (told := throttled(before, activity())):
                note(f"slowed down: {told}; fewer --threads may be faster")


def say_threads(asked: int | None) -> None:
    """How many threads compute, and who or what decided that."""
    from gemlet.store.settings import read_settings

    setting = read_settings()["threads"]
    if asked is not None:
        note(f"{asked} threads: asked for")
    elif setting.value is not None:
        note(f"{setting.value} threads: {setting.where}")
    else:
        choice = threads()
        note(f"{choice.count} threads: {choice.reason}")


def _library_load() -> Any:
    with _ended_by_interrupts():
        from gemlet.store.load import load

    return load


@contextmanager
def _ended_by_interrupts() -> Iterator[None]:
    """Ctrl-C ends the process at once: an exception amid the import of NumPy may be lost or hang."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)
