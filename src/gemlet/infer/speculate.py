"""Drafts: tokens that are guessed ahead and checked together, because a step of several rows costs less than
as many steps.

A draft never shows in a result. The rows of a step are verified one after another by the sampler that would
have run without it, with the same random number at each position, and a guess counts only where the sampler
chose it. What is decided here is therefore only what pays: how many guesses of which sequence are checked,
from how often guesses came true and what steps took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gemlet.infer.draft_model import DraftModel
from gemlet.infer.ngrams import KINDS, Acceptance, NgramDrafter, everywhere
from gemlet.infer.sequences import AnswerSequence
from gemlet.infer.step_cost import StepCost, best_count

MOST = 16
"""Tokens of a draft. What local layers keep beyond their window must cover them (native: a page of 64)."""

UNLIKELY = 0.02
"""Guesses less likely than this are not worth the thought."""

FORCED = 0.99
"""Acceptance of a token that a constraint forces, until some were seen."""

TRY_AGAIN = 64
"""Steps after which a smaller model that does not pay is asked again."""

Drafts = Mapping[int, Sequence[int]]
"""Tokens to check, by the sequence's id."""


class Speculator(Protocol):
    """Proposes drafts. Whatever it proposes, results stay the same."""

    def drafts(self, sequences: Sequence[AnswerSequence], beside: int, room: int) -> Drafts:
        """Tokens that may follow the ids of these sequences, which all answer, in the next step.

        beside: rows of prompts in the same step. room: tokens in all, at most; what is beyond is not checked.
        """

    def measured(self, rows: int, beside: int, seconds: float) -> None:
        """A step took so long, with `rows` rows of answers, drafts among them, and `beside` others."""

    def forget(self, id: int) -> None:
        """The sequence has ended. An unknown id is ignored."""

    def kv_bytes(self, positions: int) -> int:
        """Bytes that drafts for a sequence of that many positions take, at most."""

    def close(self) -> None:
        """Release what it holds."""


@dataclass(frozen=True)
class _Offer:
    """Tokens that may be drafted for a sequence.

    chances: that each is accepted. tokens: those that its constraint forces, where it is they that are
    offered. price: seconds it takes to draft one, where a model says it.
    """

    sequence: AnswerSequence
    chances: Sequence[float]
    tokens: Sequence[int] = ()
    price: float | None = None


class ForcedTokens:
    """What constraints leave no other text for, and how often models write that text in these tokens."""

    def __init__(self) -> None:
        self._acceptance = Acceptance([FORCED] * KINDS, weight=8, memory=256)
        self._asked: dict[int, tuple[int, list[int]]] = {}  # by sequence: tokens, and where they would begin

    def draft(self, sequence: AnswerSequence, most: int) -> list[int]:
        """The tokens that come next, at most so many, if they are forced."""
        self._learn(sequence)
        tokens = sequence.forced(most)
        if tokens:
            self._asked[sequence.id] = len(sequence.ids), tokens
        return tokens

    def chances(self, count: int) -> list[float]:
        """Of each of so many tokens, that it is reached and accepted."""
        return _powers(self._acceptance[0], count)

    def forget(self, id: int) -> None:
        """The sequence has ended."""
        self._asked.pop(id, None)

    def _learn(self, sequence: AnswerSequence) -> None:
        place, tokens = self._asked.get(sequence.id, (0, []))
        come = sequence.ids[place:][: len(tokens)] if tokens else []
        for token, forced in zip(come, tokens, strict=False):
            self._acceptance.add(0, token == forced)
            if token != forced:
                break
        if come:
            del self._asked[sequence.id]


def _powers(chance: float, count: int) -> list[float]:
    return [chance**i for i in range(1, count + 1)]


class AdaptiveSpeculator:
    """Drafts from the prompt and the answer so far, and from a smaller model if there is one: what pays.

    Costs are measured as steps are run, and evidence is taken from every token that was predicted.
    """

    def __init__(self, model: DraftModel | None = None) -> None:
        self._everywhere = everywhere()
        self._drafters: dict[int, NgramDrafter] = {}
        self._cost = StepCost()
        self._forced = ForcedTokens()
        self._model = model
        self._unused = 0  # steps since the model drafted last

    def drafts(self, sequences: Sequence[AnswerSequence], beside: int, room: int) -> Drafts:
        offers = []
        for sequence in sequences:
            drafter = self._drafter(sequence)
            drafter.read(sequence.ids)
            most = min(MOST, sequence.room)
            chances = drafter.chances(most, UNLIKELY)
            tokens = self._forced.draft(sequence, most)
            forced = self._forced.chances(len(tokens))
            if sum(forced) > sum(chances):
                offers.append(_Offer(sequence, forced, tokens))
            elif chances:
                offers.append(_Offer(sequence, chances))
        if self._model is not None:
            offers = self._with_model(self._model, sequences, offers, beside)
        counts = self._counts(offers, len(sequences), beside, room)
        if not counts:
            return {}
        drafts = {
            offer.sequence.id: offer.tokens[:count]
            or self._drafters[offer.sequence.id].draft(offer.sequence.ids, count)
            for offer, count in counts
            if offer.price is None
        }
        said = [(offer.sequence, count) for offer, count in counts if offer.price is not None]
        if said and self._model is not None:
            self._unused = 0
            drafts |= self._model.draft(said)
        return drafts

    def measured(self, rows: int, beside: int, seconds: float) -> None:
        self._cost.add(rows, beside, seconds)

    def forget(self, id: int) -> None:
        self._drafters.pop(id, None)
        self._forced.forget(id)
        if self._model is not None:
            self._model.forget(id)

    def kv_bytes(self, positions: int) -> int:
        return 0 if self._model is None else self._model.kv_bytes(positions)

    def close(self) -> None:
        self._drafters.clear()
        if self._model is not None:
            self._model.close()

    def _drafter(self, sequence: AnswerSequence) -> NgramDrafter:
        drafter = self._drafters.get(sequence.id)
        if drafter is None:
            drafter = NgramDrafter(len(sequence.request.ids), self._everywhere)
            self._drafters[sequence.id] = drafter
        return drafter

    def _counts(
        self, offers: Sequence[_Offer], rows: int, beside: int, room: int
    ) -> list[tuple[_Offer, int]]:
        """How many tokens of each offer are worth a row."""
        guesses = [
            (-chance, i, offer.price or 0.0) for i, offer in enumerate(offers) for chance in offer.chances
        ]
        if not guesses or room <= 0:
            return []
        guesses = sorted(guesses)[:room]  # an offer's own stay in order: none is likelier than the one before
        curve = self._cost.curve(rows + len(guesses))
        chances, prices = [-chance for chance, *_ in guesses], [price for *_, price in guesses]
        count, _ = best_count(chances, rows, curve, beside * self._cost.prompt_row(), prices)
        taken = Counter(i for _, i, _ in guesses[:count])
        return [(offers[i], number) for i, number in taken.items()]

    def _with_model(
        self, model: DraftModel, sequences: Sequence[AnswerSequence], offers: list[_Offer], beside: int
    ) -> list[_Offer]:
        """The better of both offers for each sequence. A model that does not pay is asked now and then."""
        self._unused += 1
        trial = not model.measured or self._unused >= TRY_AGAIN
        price = 0.0 if trial else model.token_seconds(len(sequences))
        curve = self._cost.curve(len(sequences) + MOST)
        others = beside * self._cost.prompt_row()

        def rate(offer: _Offer | None) -> float:
            """Tokens a second with an offer; 0 when none of it pays."""
            if offer is None:
                return 0.0
            prices = [offer.price or 0.0] * len(offer.chances)
            count, tokens_per_s = best_count(offer.chances, len(sequences), curve, others, prices)
            return tokens_per_s if count else 0.0

        best = {offer.sequence.id: offer for offer in offers}
        for sequence in sequences:
            most, chance = min(MOST, sequence.room), 1.0 if trial else model.chance(sequence)
            said = _Offer(sequence, _powers(chance, min(most, 2 if trial else most)), price=price)
            if most > 0 and (trial or rate(said) > rate(best.get(sequence.id))) and model.read(sequence):
                best[sequence.id] = said
        return list(best.values())
