"""The forecast: does a model fit a machine, how fast is it there, what does it cost. Nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gemlet.errors import ConfigError, ContextLengthError, InvalidRequestError
from gemlet.ops.limits import Limits
from gemlet.plan.cost import SECONDS_A_DAY, Load, break_even, own_cost
from gemlet.plan.efficiency import Efficiency
from gemlet.plan.memory import Memory, forecast_memory, smaller
from gemlet.plan.prices import Prices
from gemlet.plan.step_cost import CostModel, Step, prompt_steps
from gemlet.plan.subject import Subject

GB = 10**9
LEAST_CONTEXT, MOST_STREAMS = 32, 1024
STEP_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Machine:
    """What a forecast takes from a machine. `memory`: bytes it may use, None where unknown.

    `rates`: of `threads` threads together.
    """

    rates: Limits
    threads: int
    instruction_set: str
    memory: int | None
    described: bool


def described(
    efficiency: Efficiency, *, bandwidth: float, cores: int, memory: float | None, instruction_set: str
) -> Machine:
    """A machine of so many GB of memory, GB/s and cores: the same forecast wherever it is made.

    Its cores count as fast as those that the constants were measured on, with that instruction set.
    """
    for name, value in (("bandwidth", bandwidth), ("cores", cores), ("ram", 1 if memory is None else memory)):
        if not 0 < value < 1e6:
            raise InvalidRequestError(f"--{name} must be a number above 0, not {value:g}")
    if instruction_set not in efficiency.rates:
        known = ", ".join(efficiency.rates)
        problem = f"--instruction-set {instruction_set}: no core with it was measured"
        raise InvalidRequestError(problem, hint=f"measured were: {known}")
    one = efficiency.rates[instruction_set]
    rates = Limits(bandwidth * GB, cores * one["byte_products"], cores * one["float_products"])
    return Machine(rates, cores, instruction_set, None if memory is None else round(memory * GB), True)


@dataclass(frozen=True)
class Wanted:
    """Conversations at once, the tokens that each holds, and how many of these the last answer has."""

    context: int
    streams: int
    answer: int

    @classmethod
    def of(cls, subject: Subject, context: int, streams: int, answer: int | None = None) -> Wanted:
        """InvalidRequestError, or ContextLengthError for more than the model has."""
        if context < LEAST_CONTEXT:
            raise InvalidRequestError(f"--context must be at least {LEAST_CONTEXT}, not {context}")
        if context > subject.config.context_length:
            raise ContextLengthError(context, subject.config.context_length)
        if not 1 <= streams <= MOST_STREAMS:
            raise InvalidRequestError(f"--streams must be from 1 to {MOST_STREAMS}, not {streams}")
        answer = min(256, context // 4) if answer is None else answer
        if not 1 <= answer < context:
            raise InvalidRequestError(f"--answer must be from 1 to {context - 1}, not {answer}")
        return cls(context, streams, answer)

    @property
    def prompt(self) -> int:
        return self.context - self.answer

    @property
    def counts(self) -> list[int]:
        """Numbers of streams that are told: powers of two, and the number wanted."""
        powers = [1 << n for n in range(self.streams.bit_length()) if 1 << n < self.streams]
        return [*powers, self.streams]


@dataclass(frozen=True)
class Forecast:
    """Bytes, tokens a second of all streams together, seconds. `streams`: by their number."""

    memory: Memory
    prefill_tokens_per_s: float
    ttft_s: float
    streams: dict[int, float]
    load: Load

    @property
    def decode_tokens_per_s(self) -> float:
        return self.streams[1]


def forecast(
    subject: Subject, rates: Limits, wanted: Wanted, efficiency: Efficiency, *, sketch: bool = True
) -> Forecast:
    """Of a model at these rates. Pure: the same values give the same forecast."""
    model = CostModel(subject, rates, efficiency)
    prompt = model.prompt_seconds(wanted.prompt)
    streams = {
        count: count / model.seconds(Step(wanted.prompt, count, 1, count)) for count in (1, *wanted.counts)
    }
    middle = wanted.prompt + wanted.answer // 2
    written = model.seconds(Step(middle, wanted.streams, 1, wanted.streams)) / wanted.streams
    return Forecast(
        forecast_memory(subject, wanted.context, wanted.streams, efficiency, sketch=sketch),
        wanted.prompt / prompt,
        prompt,
        streams,
        Load(wanted.prompt, wanted.answer, prompt + wanted.answer * written),
    )


def describe(found: Forecast, efficiency: Efficiency) -> dict[str, Any]:
    """A forecast as JSON takes it; `within` is the error bar: the share that nine of ten stay within."""
    memory = found.memory
    return {
        "memory_bytes": memory.total,
        "memory_with_full_prefix_cache_bytes": memory.most,
        "memory": asdict(memory) | {"kv": memory.kv},
        "prefill_tokens_per_s": found.prefill_tokens_per_s,
        "decode_tokens_per_s": found.decode_tokens_per_s,
        "ttft_s": found.ttft_s,
        "streams": {str(count): rate for count, rate in found.streams.items()},
        "within": dict(efficiency.errors),
        "requests_per_day": found.load.requests_a_day,
        "answer_tokens_per_day": found.load.requests_a_day * found.load.answer,
        "decoded_tokens_per_day": found.streams[max(found.streams)] * SECONDS_A_DAY,
    }


def step_seconds(
    subject: Subject, rates: Limits, efficiency: Efficiency, rows: Sequence[int] = STEP_ROWS
) -> dict[str, float]:
    """Seconds to read so many rows of a prompt; more than a step holds take several."""
    model = CostModel(subject, rates, efficiency)
    return {str(count): sum(map(model.seconds, prompt_steps(count))) for count in rows}


def describe_fit(
    subject: Subject, weights: str, wanted: Wanted, found: Forecast, room: int | None, efficiency: Efficiency
) -> dict[str, Any]:
    """Whether it fits into `room` bytes, and if not, what would."""
    fits = None if room is None else found.memory.total <= room
    changes = []
    if room is not None and not fits:
        changes = smaller(subject, weights, wanted.context, wanted.streams, room, efficiency)
    return {
        "room_bytes": room,
        "fits": fits,
        "fits_with_full_prefix_cache": None if room is None else found.memory.most <= room,
        "changes": [asdict(change) for change in changes],
    }


def rule_of_thumb(subject: Subject) -> dict[str, list[int]]:
    """What is often said: parameters x 2 bytes at 16 bits, 0.6 at int4, and 30 to 50 % more for the rest."""
    count = sum(subject.config.parameter_counts().values())
    return {
        "16 bits": [round(count * 2 * more) for more in (1.3, 1.5)],
        "int4": [round(count * 0.6 * more) for more in (1.3, 1.5)],
    }


def describe_cost(prices: Prices, found: Forecast) -> dict[str, Any]:
    """Cost of the own machine, and beside each hosted model. ConfigError without a [machine]."""
    if prices.machine is None:
        hint = "gemlet plan --prices-template shows it"
        raise ConfigError("the table of prices has no [machine]: what this one costs", hint=hint)
    written = found.streams[max(found.streams)]
    own = own_cost(prices.machine, found.load, found.prefill_tokens_per_s, written)
    compared = [asdict(break_even(prices.machine, hosted, found.load)) for hosted in prices.hosted]
    return {
        "currency": prices.currency,
        "machine": asdict(prices.machine),
        "own": asdict(own),
        "hosted": compared,
    }
