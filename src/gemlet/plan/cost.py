"""What answers cost on one's own machine, and from how many a day on it is cheaper than a hosted model."""

from __future__ import annotations

from dataclasses import dataclass

from gemlet.plan.prices import HostedPrice, MachinePrice

SECONDS_A_DAY = 86_400
MILLION = 1_000_000


@dataclass(frozen=True)
class Load:
    """A request: tokens of its prompt and its answer, and the seconds that it takes of a busy machine."""

    prompt: int
    answer: int
    seconds: float

    @property
    def requests_a_day(self) -> float:
        """At most, when the machine never waits."""
        return SECONDS_A_DAY / self.seconds


@dataclass(frozen=True)
class OwnCost:
    """On one's own machine, always busy; in the table's currency."""

    an_hour: float
    a_request: float
    million_read: float
    million_written: float


@dataclass(frozen=True)
class BreakEven:
    """Beside a hosted model. `requests_a_day`: from so many on the own machine, kept running, is cheaper;

    None where that is more than it can answer, so that the hosted one stays cheaper.
    """

    name: str
    hosted_request: float
    own_request: float
    requests_a_day: float | None
    date: str
    source: str


def own_cost(
    price: MachinePrice, load: Load, read_tokens_per_s: float, written_tokens_per_s: float
) -> OwnCost:
    """What a machine's hour comes to by request, and by tokens if it did nothing but read or write."""
    a_second = price.an_hour / 3600
    return OwnCost(
        price.an_hour,
        a_second * load.seconds,
        a_second * MILLION / read_tokens_per_s,
        a_second * MILLION / written_tokens_per_s,
    )


def break_even(price: MachinePrice, hosted: HostedPrice, load: Load) -> BreakEven:
    """The own machine costs the same whether it works or not; the hosted model costs by the token."""
    asked = (load.prompt * hosted.input_per_million + load.answer * hosted.output_per_million) / MILLION
    needed = 24 * price.an_hour / asked if asked else None
    if needed is not None and needed > load.requests_a_day:
        needed = None
    own = price.an_hour / 3600 * load.seconds
    return BreakEven(hosted.name, asked, own, needed, hosted.origin.date, hosted.origin.source)
