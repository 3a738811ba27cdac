"""The training loop: steps, validations, checkpoints, and how a run ends."""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gemlet.errors import OutputError, TrainingError
from gemlet.formats.files import replaced_file
from gemlet.tune import checkpoint
from gemlet.tune.checkpoint import State
from gemlet.tune.examples import Pair
from gemlet.tune.network import Network
from gemlet.tune.objective import Item, tokens_of, total_loss, weight_of
from gemlet.tune.processes import Processes
from gemlet.tune.schedule import Step, dealt, epoch_steps, filled
from gemlet.tune.settings import Settings

Ending = Literal["finished", "early", "interrupted"]

LOG = "log.jsonl"

TIMED_STEPS = 2

CHECKPOINT_S = 120.0
"""Seconds of work that a crash may cost, about."""


@dataclass(frozen=True)
class Progress:
    """After a step or a validation. `loss` is the step's mean, `valid_loss` None unless just measured."""

    step: int
    steps: int
    loss: float | None
    valid_loss: float | None
    tokens_per_s: float
    seconds_left: float


@dataclass(frozen=True)
class Result:
    """How a run ended. Losses are means over learned tokens, or over preferences."""

    ending: Ending
    steps: int
    tokens: int
    seconds: float
    start_valid_loss: float | None
    best_step: int | None
    best_valid_loss: float | None


class Run:
    """A network trained on items, in a folder that keeps its log and its checkpoints.

    micro_tokens: tokens computed at a time, at most, unless one example is longer. stop: asked between parts
    of a step; once it says true the step is dropped and the run ends with a checkpoint.
    """

    def __init__(
        self,
        network: Network,
        settings: Settings,
        train: Sequence[Item],
        valid: Sequence[Item],
        folder: Path,
        *,
        identity: str,
        micro_tokens: int,
        processes: Processes | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.network, self.settings, self.train, self.valid = network, settings, train, valid
        self.folder, self.micro_tokens, self.stop = folder, micro_tokens, stop
        self.processes = processes or Processes()
        self._lengths = [tokens_of(item) for item in train]
        self._epochs = [
            epoch_steps(self._lengths, settings.batch_tokens, settings.seed, epoch)
            for epoch in range(settings.epochs)
        ]
        self.plan: list[Step] = [step for epoch in self._epochs for step in epoch]
        self._optimizer = torch.optim.AdamW(
            network.parameters.values(), lr=settings.rate, weight_decay=settings.weight_decay, fused=True
        )
        self.state = State(run=self._name(identity))
        self._norm = 0.0
        self._rates: deque[tuple[int, float]] = deque(maxlen=20)
        torch.manual_seed(settings.seed * 1_000_003 + self.processes.number)

    def _name(self, identity: str) -> str:
        """Tells this run from one that would go another way."""
        parts = [identity, self.settings.document(), self.micro_tokens, self.network.recompute]
        parts.append(self.processes.count)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def tokens(self) -> int:
        """Read by the steps of the whole run."""
        return sum(self._lengths[index] for step in self.plan for index in step)

    @property
    def valid_every(self) -> int:
        return self.settings.valid_every or max(1, len(self._epochs[0]) // 4)

    def resume(self) -> bool:
        """Go on from the newest checkpoint, if there is one."""
        found = checkpoint.checkpoints(self.checkpoints)
        if not found:
            return False
        self.state = checkpoint.restore(found[-1], self.state.run, self.network.parameters, self._optimizer)
        self._trim_log()
        return True

    def execute(self, say: Callable[[Progress], None] = lambda progress: None) -> Result:
        """Train to the end, to an early one, or until stopped. The network then holds the best values.

        Raises TrainingError where a loss or a gradient is no number: nothing of that step is kept.
        """
        saved_at = time.monotonic()
        if self.state.step == 0 and self.state.start_loss is None:
            self._validate(say)
        while self.state.step < len(self.plan):
            if self._early():
                return self._end("early")
            began = time.perf_counter()
            loss = self._step(self.plan[self.state.step])
            if loss is None:
                self._save()
                return self._end("interrupted")
            self._log_step(loss, time.perf_counter() - began, say)
            last = self.state.step == len(self.plan)
            if last or self.state.step % self.valid_every == 0:
                self._validate(say)
            if last or time.monotonic() - saved_at > CHECKPOINT_S:
                self._save()
                saved_at = time.monotonic()
        return self._end("finished")

    def timed(self) -> float:
        """Tokens a second: parts of the first steps are computed, and nothing is kept of them."""
        random = torch.get_rng_state()
        rates = []
        for step in self.plan[:TIMED_STEPS]:
            part = filled(step, self._lengths, self.micro_tokens)[0]
            began = time.perf_counter()
            total_loss(self.network, [self.train[index] for index in part], self.settings.beta).backward()
            seconds = time.perf_counter() - began
            rates.append(sum(self._lengths[index] for index in part) / seconds)
            self._optimizer.zero_grad()
        torch.set_rng_state(random)
        return max(rates)  # the first one meets cold caches

    # --- One step

    def _step(self, items: Step) -> float | None:
        """Improve the network by one step; its mean loss, or None when stopped: then nothing changed."""
        total_weight = sum(weight_of(self.train[index]) for index in items)
        parts = dealt(filled(items, self._lengths, self.micro_tokens), *self._place)
        total = torch.zeros(1)
        for part in parts:
            if self.stop():
                break
            loss = total_loss(self.network, [self.train[index] for index in part], self.settings.beta)
            total += loss.detach()
            (loss / total_weight).backward()
        if self.processes.any(self.stop()):
            self._optimizer.zero_grad()
            return None
        parameters = list(self.network.parameters.values())
        for parameter in parameters:  # a process without a part of the step has no gradients
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.processes.sum([total, *(p.grad for p in parameters if p.grad is not None)])
        mean = total.item() / total_weight
        self._norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip, foreach=True))
        self._check_finite(mean, items)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.rate_at(self.state.step, len(self.plan))
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.state.step += 1
        self.state.tokens += sum(self._lengths[index] for index in items)
        return mean

    @property
    def _place(self) -> tuple[int, int]:
        return self.processes.number, self.processes.count

    def _check_finite(self, loss: float, items: Step) -> None:
        if torch.isfinite(torch.tensor([loss, self._norm])).all():
            return
        self._optimizer.zero_grad()
        self._save()
        sources = ", ".join(_source(self.train[index]) for index in items[:5])
        raise TrainingError(
            f"step {self.state.step + 1}: the loss or its gradient is no number (loss {loss}, gradient "
            f"{self._norm}); the step read {sources}{', …' if len(items) > 5 else ''}",
            hint="a smaller --lr is the usual cure; the values before this step are in a checkpoint",
        )

    # --- Validation

    def _validate(self, say: Callable[[Progress], None]) -> None:
        loss = self.mean_loss(self.valid)
        if loss is None:
            return
        if self.state.step == 0:
            self.state.start_loss = loss
        elif self.state.best_loss is None or loss < self.state.best_loss:
            self.state.best_loss, self.state.best_step, self.state.worse = loss, self.state.step, 0
            self._save_best()
        else:
            self.state.worse += 1
        self._log({"step": self.state.step, "valid_loss": loss})
        say(self._progress(None, loss))

    def mean_loss(self, items: Sequence[Item]) -> float | None:
        """Of held-out items; None where there are none."""
        if not items:
            return None
        groups = filled(range(len(items)), [tokens_of(item) for item in items], self.micro_tokens)
        total = torch.zeros(1, dtype=torch.float64)
        with self.network.evaluating():
            for group in dealt(groups, *self._place):
                total += total_loss(self.network, [items[index] for index in group], self.settings.beta)
        self.processes.sum([total])
        return total.item() / sum(weight_of(item) for item in items)

    def _early(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state.worse >= patience

    # --- Files

    def _save(self) -> None:
        if self.processes.first:
            with _full_disk_told(self.checkpoints):
                checkpoint.save(self.checkpoints, self.state, self.network.parameters, self._optimizer)

    def _save_best(self) -> None:
        if self.processes.first:
            with _full_disk_told(self.checkpoints):
                checkpoint.save_values(self._best, self.network.parameters)

    @property
    def _best(self) -> Path:
        return self.checkpoints / checkpoint.BEST

    def _end(self, ending: Ending) -> Result:
        state = self.state
        if ending != "interrupted" and state.best_step not in (None, state.step):
            checkpoint.restore_values(self._best, self.network.parameters)
        return Result(ending, state.step, state.tokens, state.seconds, *state.validation)

    def _log_step(self, loss: float, seconds: float, say: Callable[[Progress], None]) -> None:
        self.state.seconds += seconds
        items = [self.train[index] for index in self.plan[self.state.step - 1]]
        tokens = sum(map(tokens_of, items))
        self._rates.append((tokens, seconds))
        entry = {
            "step": self.state.step,
            "loss": loss,
            "tokens": tokens,
            "labels": sum(map(weight_of, items)),
            "lr": self.settings.rate_at(self.state.step - 1, len(self.plan)),
            "grad_norm": self._norm,
            "seconds": seconds,
            "tokens_per_s": tokens / seconds,
        }
        self._log(entry)
        say(self._progress(loss, None))

    def _log(self, entry: dict[str, Any]) -> None:
        if self.processes.first:
            with _full_disk_told(self.folder), (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def _trim_log(self) -> None:
        """Forget what was logged after the step at which the run goes on."""
        path = self.folder / LOG
        if not self.processes.first or not path.exists():
            return
        kept = [line for line in path.read_text("utf-8").splitlines() if self._is_before(line)]
        with replaced_file(path) as file:
            file.write("".join(line + "\n" for line in kept).encode())

    def _is_before(self, line: str) -> bool:
        try:
            return int(json.loads(line)["step"]) <= self.state.step
        except (ValueError, KeyError, TypeError):  # the machine went down while it was written
            return False

    def _progress(self, loss: float | None, valid_loss: float | None) -> Progress:
        tokens, seconds = (
            (sum(column) for column in zip(*self._rates, strict=True)) if self._rates else (0, 0)
        )
        rate = tokens / seconds if seconds else 0.0
        ahead = sum(self._lengths[index] for step in self.plan[self.state.step :] for index in step)
        left = ahead / rate if rate else float("inf")
        return Progress(self.state.step, len(self.plan), loss, valid_loss, rate, left)


@contextmanager
def _full_disk_told(where: Path) -> Iterator[None]:
    """OutputError in place of an OSError: what was written before is whole."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{where}: was not written: {error.strerror or error}",
            hint="the checkpoints before are whole: make room and go on with --resume",
        ) from error


def _source(item: Item) -> str:
    return item.chosen.source if isinstance(item, Pair) else item.source
