"""Drafts out of the text itself: where its end occurred before, what followed may follow again.

Prompt lookup decoding. The index is that of a compressor: for each n-gram of a few orders the place where it
ended last, and from there the place before. A token costs the same however long the text is.
"""

from __future__ import annotations

from collections.abc import Sequence

ORDERS = (4, 2, 1)
"""Lengths of the n-grams that are looked up, the longest first."""

CANDIDATES = 16
"""Places of an n-gram that are compared, the latest first."""

LONGEST = 32
"""Tokens compared at a place."""

NEAR = 64
"""Tokens behind a place that was left, within which the text is expected to be taken up again."""


class NgramIndex:
    """Places at which the n-grams of a growing list of ids ended."""

    def __init__(self) -> None:
        self._latest: dict[int | tuple[int, ...], int] = {}  # orders cannot be confused: the lengths differ
        self._earlier: tuple[list[int], ...] = tuple([] for _ in ORDERS)

    @property
    def length(self) -> int:
        """Ids taken in."""
        return len(self._earlier[0])

    def push(self, ids: Sequence[int]) -> None:
        """Take in the id behind those that are in already; `ids` may go on behind it."""
        end = self.length + 1
        latest = self._latest
        for order, earlier in zip(ORDERS, self._earlier, strict=True):
            if order > end:
                earlier.append(0)
                continue
            key = ids[end - 1] if order == 1 else tuple(ids[end - order : end])
            earlier.append(latest.get(key, 0))
            latest[key] = end

    def find(self, ids: Sequence[int], left: int = 0) -> tuple[int, int]:
        """The place behind the longest earlier occurrence of the end of `ids`, and its length; or (0, 0).

        Of equally long ones the first within NEAR tokens behind the place `left` is taken, else the latest.
        """
        end = self.length
        for order, earlier in zip(ORDERS, self._earlier, strict=True):
            best = (0, False, 0)  # length, near, place
            place = earlier[end - 1] if end else 0
            for _ in range(CANDIDATES):
                if place == 0:
                    break
                length = order
                most = min(LONGEST, place)
                while length < most and ids[place - length - 1] == ids[end - length - 1]:
                    length += 1
                near = 0 < left <= place <= left + NEAR
                if (length, near) > best[:2] or (near and length == best[0]):
                    best = (length, near, place)
                place = earlier[place - 1]
            if best[0]:
                return best[2], best[0]
        return 0, 0


KINDS = 8
"""Kinds of evidence: place taken up again behind a change; match lengths 1, 2, 3-4, 5-8 … and above 32."""

FIRST_GUESS = (0.5, 0.3, 0.5, 0.65, 0.8, 0.9, 0.95, 0.97)
"""Acceptance of each kind until some was seen."""

RESUMED = 0


def kind(match: int) -> int:
    """The kind of evidence of a match of that many tokens."""
    return min((match - 1).bit_length() + 1, KINDS - 1)


class Acceptance:
    """How often a predicted token came, for each kind of prediction. What was seen lately counts most.

    `prior` is what to expect before there is much evidence, with the weight of `weight` observations.
    """

    def __init__(self, prior: Acceptance | Sequence[float], weight: float, memory: float) -> None:
        self._prior = prior
        self._weight = weight
        self._kept = 1 - 1 / memory
        self._hits = [0.0] * KINDS
        self._trials = [0.0] * KINDS

    def add(self, kind: int, hit: bool) -> None:
        """A prediction of that kind came true or not."""
        self._hits[kind] = self._hits[kind] * self._kept + hit
        self._trials[kind] = self._trials[kind] * self._kept + 1
        if isinstance(self._prior, Acceptance):
            self._prior.add(kind, hit)

    def __getitem__(self, kind: int) -> float:
        prior = self._prior[kind]
        return (self._hits[kind] + self._weight * prior) / (self._trials[kind] + self._weight)


class NgramDrafter:
    """Follows one sequence and predicts it out of itself.

    Every token that comes is compared with the prediction, whether it was drafted or not: evidence is free.
    """

    def __init__(self, prompt_length: int, everywhere: Acceptance) -> None:
        self._prompt_length = prompt_length
        self._acceptance = Acceptance(everywhere, weight=4, memory=32)
        self._index = NgramIndex()
        self._source = 0  # the predicted token is ids[source]; 0 for no prediction
        self._match = 0  # tokens before it that agree; 0 where it is taken up again behind a change
        self._left = 0  # behind the token at which a long match was left last
        self._resumable = False  # whether that place was not tried yet

    def read(self, ids: Sequence[int]) -> None:
        """Take in what has come since the last call."""
        for position in range(self._index.length, len(ids)):
            if self._source:
                self._compare(ids[self._source] == ids[position])
            self._index.push(ids)
            if not self._source and position + 1 >= self._prompt_length:
                self._look_up(ids)

    def _compare(self, hit: bool) -> None:
        self._acceptance.add(kind(self._match) if self._match else RESUMED, hit)
        if hit:
            self._source += 1
            # Taken up again: as good as a match of some tokens, though not as the one that was left.
            self._match = self._match + 1 if self._match else ORDERS[0]
            return
        if self._match >= ORDERS[0]:
            self._left, self._resumable = self._source + 1, True
        self._source = 0

    def _look_up(self, ids: Sequence[int]) -> None:
        self._source, self._match = self._index.find(ids, self._left)
        if self._match < 2 and self._resumable:
            # One token was put in the place of another, so far as can be seen.
            self._source, self._match = self._left, 0
        self._resumable = False

    def chances(self, most: int, least: float = 0.0) -> list[float]:
        """Of the next drafted tokens, the probability that each is reached and accepted.

        They end after `most`, or where it falls below `least`.
        """
        chances: list[float] = []
        if not self._source:
            return chances
        chance, match, of = 1.0, self._match, -1
        for _ in range(most):
            if (now := kind(match) if match else RESUMED) != of:
                of, accepted = now, self._acceptance[now]
            chance *= accepted
            if chance < least:
                break
            chances.append(chance)
            match = match + 1 if match else ORDERS[0]
        return chances

    def draft(self, ids: Sequence[int], count: int) -> list[int]:
        """The next `count` tokens as predicted. Where the source meets the end, the draft repeats itself."""
        tokens: list[int] = []
        for place in range(self._source, self._source + count):
            tokens.append(ids[place] if place < len(ids) else tokens[place - len(ids)])
        return tokens


def everywhere() -> Acceptance:
    """What is known of predictions in general, for drafters to begin with and to add to."""
    return Acceptance(FIRST_GUESS, weight=8, memory=256)
