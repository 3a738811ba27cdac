"""How fast a model is on this machine, how near that is to the machine's limits, and beside a peer.

A round starts every engine anew, each in a process of its own, and measures every stage once on each, in
turn. Before each stage the machine's limits are measured, so that both drift together.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from gemlet.errors import GemletError, UnsupportedParameterError
from gemlet.evaluate.engine_process import EngineProcess
from gemlet.evaluate.engines import PEER_PACKAGE, LlamaCpp, check_peer, random_ids
from gemlet.evaluate.record import provenance
from gemlet.evaluate.speed_result import describe_memory, describe_stage, memory_rows, table_row
from gemlet.evaluate.stages import OURS, QUICK, STAGES, WARM_UP, Plan, Samples, Stage
from gemlet.machine.disturbance import activity, disturbances
from gemlet.machine.threads import threads as thread_choice
from gemlet.model.config import ModelConfig
from gemlet.model.sources import open_source, weight_files_of
from gemlet.model.weights import load
from gemlet.model.work import Work
from gemlet.ops.limits import measure_limits
from gemlet.ops.native import MOST_THREADS
from gemlet.store.settings import cache_dir

PAUSE_S = 0.3
"""Rest between measurements: threads of the other engine may still be waiting for work at full speed."""

Progress = Callable[[str], None]


def plan_speed(
    model: Path,
    *,
    threads: int | None = None,
    rounds: int | None = None,
    tokens: int | None = None,
    against: str | None = None,
    quick: bool = False,
) -> Plan:
    """Check what is asked for before anything takes time. `quick`: fewer stages, rounds and tokens.

    Raises MissingPeerError for a peer that is not installed, UnsupportedParameterError for a model that the
    peer cannot read, ModelFileError.
    """
    if against is not None:
        if against != LlamaCpp.name:
            raise UnsupportedParameterError("against", f"there is no peer '{against}': llama.cpp is known")
        check_peer()
        if not model.is_file():
            problem = f"llama.cpp reads GGUF files only, {model} is a folder"
            raise UnsupportedParameterError("against", problem)
    config = open_source(model).config
    stages = tuple(stage for stage in STAGES if not quick or stage.name in QUICK)
    choice = thread_choice()
    plan = Plan(
        model,
        threads or min(choice.count, MOST_THREADS),
        "asked for" if threads else choice.reason,
        rounds or (3 if quick else 7),
        tokens or (16 if quick else 32),
        stages,
        config.context_length,
        against,
    )
    room = config.context_length - (plan.context - max(stage.tokens for stage in stages))
    fitting = tuple(stage for stage in stages if stage.tokens <= room)
    if not fitting:
        problem = f"a context of {config.context_length} tokens is too short to measure anything"
        raise UnsupportedParameterError("tokens", problem)
    return replace(plan, stages=fitting)


def measure(plan: Plan, progress: Progress = lambda text: None) -> dict[str, Any]:
    """Measure and give the result as a JSON-ready document; see docs/reference/speed.md."""
    loaded = load(plan.model, cache_dir=cache_dir())  # packs the weights if that was never done
    config, samples = loaded.facts.config, Samples()
    before = activity()
    for number in range(plan.rounds):
        measure_round(plan, config, number, samples, progress)
    disturbed = disturbances(before, activity())
    packages = [PEER_PACKAGE] if plan.against == LlamaCpp.name else []
    return {
        **provenance("speed", weight_files_of(plan.model), packages),
        "settings": {
            "model": plan.model.name,
            "threads": plan.threads,
            "why_threads": plan.why_threads,
            "rounds": plan.rounds,
            "tokens": plan.tokens,
            "engines": samples.details,
        },
        "disturbances": list(disturbed),
        "stages": [describe_stage(stage, samples) for stage in plan.stages],
        "memory": describe_memory(plan, samples),
        "rows": [
            *(table_row(stage, plan, samples) for stage in plan.stages),
            *memory_rows(plan, samples),
        ],
    }


def measure_round(
    plan: Plan, config: ModelConfig, number: int, samples: Samples, progress: Progress = lambda text: None
) -> None:
    """One round: every stage once on every engine, which is first is changed from round to round."""
    ids = random_ids(plan.context, number, config.vocab_size)
    with ExitStack() as stack:
        engines = []
        for name in plan.engines if number % 2 == 0 else reversed(plan.engines):
            progress(f"round {number + 1} of {plan.rounds}: starting {name}")
            engines.append(stack.enter_context(EngineProcess(name, plan.model, plan.threads, plan.context)))
            warm_up(engines[-1], plan, ids, samples)
        for stage in plan.stages:
            progress(f"round {number + 1} of {plan.rounds}: {stage.name}")
            samples.limits.setdefault(stage.name, []).append(measure_limits(plan.threads, seconds=0.15))
            for engine in engines:
                time.sleep(PAUSE_S)
                seconds = measure_stage(stage, engine, plan, ids)
                by_engine = samples.seconds.setdefault(stage.name, {})
                by_engine.setdefault(engine.name, []).append(seconds)


def warm_up(engine: EngineProcess, plan: Plan, ids: Sequence[int], samples: Samples) -> None:
    """Bring the weights into memory, and take what is known without timing."""
    engine.call("prefill", ids[:WARM_UP])
    engine.call("decode", ids[:1])
    samples.memory.setdefault(engine.name, []).append(engine.call("memory"))
    samples.details[engine.name] = engine.details
    if engine.name != OURS or samples.work:
        return
    samples.kv_price = {n: engine.call("kv_price", n) for n in (plan.context, plan.longest)}
    for stage in plan.stages:
        if stage.kind in ("prefill", "first token"):
            found = engine.call("prompt_work", stage.tokens)
        else:
            middle = stage.tokens + plan.tokens // 2
            found = engine.call("step_work", middle, stage.streams)
        if stage.kind != "start":  # most of a start is no work of a model
            samples.work[stage.name] = Work(**found)


def measure_stage(stage: Stage, engine: EngineProcess, plan: Plan, ids: Sequence[int]) -> float:
    """Seconds of the prompt, of a step, or until the first token."""
    ours = engine.name == OURS
    if stage.kind == "start":
        return seconds_to_start(engine.name, plan, ids)
    if stage.kind == "answer":
        return float(statistics.median(engine.call("answer", ids[: stage.tokens], plan.tokens)[1:]))
    if stage.kind == "first token" and ours:
        return float(engine.call("answer", ids[: stage.tokens], 1)[0])
    if stage.kind in ("prefill", "first token"):
        return float(engine.call("prefill", ids[: stage.tokens]))
    if stage.kind == "streams":
        # The first steps also make room for the new sequences.
        return float(statistics.median(engine.call("streams", stage.streams, ids[: plan.tokens + 2])[2:]))
    if stage.tokens == 1:
        engine.call("prefill", ids[:1])
    return float(statistics.median(engine.call("decode", ids[stage.tokens : stage.tokens + plan.tokens])))


def seconds_to_start(name: str, plan: Plan, ids: Sequence[int]) -> float:
    """From the start of a new process to the first token of an answer."""
    if name == OURS:
        flags = ["--raw", "-q", "-n", "1", "-t", "0", "--weights", "auto", "--threads", str(plan.threads)]
        return first_byte([sys.executable, "-m", "gemlet", "run", *flags, "-m", str(plan.model), "The"])
    began = time.perf_counter()
    with EngineProcess(name, plan.model, plan.threads, plan.context) as engine:
        engine.call("prefill", ids[:2])
        return time.perf_counter() - began


def first_byte(command: Sequence[str]) -> float:
    """Seconds until a command writes something, or ends."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - began
        _, complaint = process.communicate()
    if process.returncode != 0:
        said = complaint.decode(errors="replace").strip()
        raise GemletError(f"{' '.join(command)} ended with code {process.returncode}: {said}")
    return seconds
