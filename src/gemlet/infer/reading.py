"""The numbers of prompts, for `Model`: logits, scores, log-probabilities, embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gemlet.errors import InvalidRequestError
from gemlet.infer.adapters import Adapters
from gemlet.infer.answer import token_logprob
from gemlet.infer.engine import Engine
from gemlet.infer.options import check_ids
from gemlet.infer.requests import Outputs, PromptRequest
from gemlet.infer.scoring import TextOrIds, as_score, read_prompts, read_prompts_async, score_request
from gemlet.model.config import ModelConfig
from gemlet.text.tokenizer import Tokenizer
from gemlet.types import Score, TokenLogprob

MAX_LOGITS_BYTES = 2 * 2**30
"""Logits that are given without naming positions."""

AT_ONCE = 32
"""Prompts that `score_many` and `embed` keep in the engine."""


class PromptReading:
    """What a model tells of prompts without continuing them."""

    config: ModelConfig
    tokenizer: Tokenizer
    _engine: Engine
    _adapters: Adapters

    def logits(
        self, ids: Sequence[int], positions: Sequence[int] | None = None, *, adapter: str | None = None
    ) -> NDArray[np.float32]:
        """Logits after each token: float32 [len(ids), vocab], or [len(positions), vocab] for those positions.

        A negative position counts from the end. More than 2 GiB without naming positions is an
        InvalidRequestError.
        """
        ids = check_ids(ids)
        if positions is None:
            size = 4 * len(ids) * self.config.vocab_size
            if size > MAX_LOGITS_BYTES:
                hint = "name the positions that are needed"
                raise InvalidRequestError(f"the logits of {len(ids)} positions take {size} bytes", hint=hint)
            positions = range(len(ids))
        wanted = [p + len(ids) if p < 0 else p for p in check_ids(positions)]
        if not wanted:
            return np.empty((0, self.config.vocab_size), np.float32)
        rows = sorted(set(wanted))
        request = PromptRequest(tuple(ids), logits=tuple(rows), adapter=self._adapters.find(adapter))
        (outputs,) = read_prompts(self._engine, [request], 1)
        if wanted == rows:
            return outputs.logits
        return outputs.logits[np.searchsorted(rows, wanted)]

    def score(self, context: TextOrIds, continuation: TextOrIds, *, adapter: str | None = None) -> Score:
        """The log-probability of a continuation, by lm-eval's rule for text; ids are taken as they are."""
        return self.score_many([(context, continuation)], adapter=adapter)[0]

    def score_many(
        self, pairs: Iterable[tuple[TextOrIds, TextOrIds]], *, adapter: str | None = None
    ) -> list[Score]:
        """The score of each (context, continuation), computed together where there are several."""
        loaded = self._adapters.find(adapter)
        requests = [
            replace(score_request(self.tokenizer, context, continuation), adapter=loaded)
            for context, continuation in pairs
        ]
        outputs = read_prompts(self._engine, requests, AT_ONCE)
        return [as_score(request, output) for request, output in zip(requests, outputs, strict=True)]

    def prompt_logprobs(
        self, prompt: TextOrIds, top: int = 0, *, adapter: str | None = None
    ) -> tuple[TokenLogprob, ...]:
        """Each token of a prompt but the first, with its log-probability and the `top` likeliest.

        Text gets one BOS; ids are taken as they are. Empty for a prompt of one token.
        """
        request = self._prompt_logprobs_request(prompt, top, adapter)
        if request is None:
            return ()
        (outputs,) = read_prompts(self._engine, [request], 1)
        return self._as_logprobs(request, outputs)

    async def aprompt_logprobs(
        self, prompt: TextOrIds, top: int = 0, *, adapter: str | None = None
    ) -> tuple[TokenLogprob, ...]:
        """`prompt_logprobs` for an event loop; cancelling the task cancels the request."""
        request = self._prompt_logprobs_request(prompt, top, adapter)
        if request is None:
            return ()
        (outputs,) = await read_prompts_async(self._engine, [request], 1)
        return self._as_logprobs(request, outputs)

    def embed(self, texts: Sequence[TextOrIds], *, adapter: str | None = None) -> NDArray[np.float32]:
        """The mean of the final hidden states of each text's tokens, unit length: float32 [n, hidden].

        Text gets one BOS, token ids are taken as they are. The first token is left out of the mean, unless
        the text has nothing else.
        """
        requests = self._embedding_requests(texts, adapter)
        return self._as_embeddings(list(read_prompts(self._engine, requests, AT_ONCE)))

    async def aembed(self, texts: Sequence[TextOrIds], *, adapter: str | None = None) -> NDArray[np.float32]:
        """`embed` for an event loop; cancelling the task cancels the requests."""
        requests = self._embedding_requests(texts, adapter)
        return self._as_embeddings(await read_prompts_async(self._engine, requests, AT_ONCE))

    def _ids_of(self, prompt: TextOrIds) -> list[int]:
        return self.tokenizer.encode(prompt, bos=True) if isinstance(prompt, str) else check_ids(prompt)

    def _prompt_logprobs_request(
        self, prompt: TextOrIds, top: int, adapter: str | None
    ) -> PromptRequest | None:
        ids = tuple(self._ids_of(prompt))
        if len(ids) < 2:
            return None
        return PromptRequest(ids, score_from=1, top=top, adapter=self._adapters.find(adapter))

    def _as_logprobs(self, request: PromptRequest, outputs: Outputs) -> tuple[TokenLogprob, ...]:
        tokens = zip(request.ids[1:], outputs.logprobs, outputs.top, strict=True)
        return tuple(token_logprob(self.tokenizer, *token) for token in tokens)

    def _embedding_requests(self, texts: Sequence[TextOrIds], adapter: str | None) -> list[PromptRequest]:
        if isinstance(texts, str):
            raise InvalidRequestError("texts must be a list of texts")
        loaded = self._adapters.find(adapter)
        prompts = [self._ids_of(text) for text in texts]
        return [
            PromptRequest(tuple(ids), hidden=tuple(range(1, len(ids))) or (0,), adapter=loaded)
            for ids in prompts
        ]

    def _as_embeddings(self, outputs: Sequence[Outputs]) -> NDArray[np.float32]:
        result = np.empty((len(outputs), self.config.hidden_size), np.float32)
        for i, output in enumerate(outputs):
            mean = output.hidden.mean(axis=0, dtype=np.float64)
            result[i] = mean / np.linalg.norm(mean)
        return result
