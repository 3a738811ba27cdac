"""The outside oracle, transformers in float32 on the same weights, and the measures that compare with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.initialization import no_init_weights

from gemlet.model.config import ModelConfig
from gemlet.model.decoder import Decoder
from gemlet.ops.batch import Batch
from tests.synthetic import hf_config, hf_name

Float32 = NDArray[np.float32]
_ROWS = (
    16  # rows of 262,144 logits whose temporaries still fit the caches: four times faster than 256 at once
)


class Oracle:
    """A transformers Gemma 3 in float32 with the plain ("eager") attention."""

    def __init__(self, config: Gemma3TextConfig, tensors: Mapping[str, Float32]) -> None:
        """`tensors`: canonical names; norm weights ready to multiply, transformers wants them less 1."""
        config._attn_implementation = "eager"
        with no_init_weights():
            model = Gemma3ForCausalLM(config).eval()
        state = {
            hf_name(name): torch.from_numpy(values - np.float32(1) if name.endswith("norm") else values)
            for name, values in tensors.items()
        }
        missing = model.load_state_dict(state, strict=False, assign=True)
        allowed = {"lm_head.weight"} if config.tie_word_embeddings else set()
        assert not missing.unexpected_keys and set(missing.missing_keys) <= allowed, missing
        model.tie_weights()
        self._model = model

    @classmethod
    def of_gguf(cls, path: Path) -> Oracle:
        """The oracle for a Gemma 3 GGUF file, read and dequantised by the format's own package."""
        reader = GGUFReader(path)
        tensors = {}
        for tensor in reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=True)
            name = tensor.name.removesuffix(".weight")
            tensors[name] = values.reshape([int(size) for size in reversed(tensor.shape)])

        def field(name: str) -> Any:
            return reader.fields[f"gemma3.{name}"].contents()

        config = Gemma3TextConfig(
            vocab_size=len(tensors["token_embd"]),
            hidden_size=field("embedding_length"),
            intermediate_size=field("feed_forward_length"),
            num_hidden_layers=field("block_count"),
            num_attention_heads=field("attention.head_count"),
            num_key_value_heads=field("attention.head_count_kv"),
            head_dim=field("attention.key_length"),
            max_position_embeddings=field("context_length"),
            sliding_window=512,
            query_pre_attn_scalar=256,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
        )
        return cls(config, tensors)

    @classmethod
    def of_config(cls, config: ModelConfig, tensors: Mapping[str, Float32]) -> Oracle:
        """The oracle for a configuration of ours. Its attention scale must be 1/sqrt of a whole number."""
        theirs = Gemma3TextConfig(
            **hf_config(config, old_style=False) | {"dtype": "float32", "num_attention_heads": 1}
        )
        # Set afterwards: the constructor, and only that, refuses hidden sizes that the heads do not divide.
        theirs.num_attention_heads = config.num_attention_heads
        return cls(theirs, tensors)

    @torch.inference_mode()
    def hidden(self, ids: Sequence[int]) -> torch.Tensor:
        """Final normed hidden states, [tokens, hidden_size]: small enough to keep where logits are not."""
        return self._model.model(input_ids=torch.tensor([list(ids)]), use_cache=False).last_hidden_state[0]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> Float32:
        """The head's float32 logits of some rows of `hidden`, [rows, vocab]."""
        return self._model.lm_head(hidden).numpy()


def run(
    decoder: Decoder, ids: Sequence[int], sizes: Sequence[int] = (256,), first: int = 0
) -> Iterator[tuple[slice, Float32]]:
    """Feed `ids` in steps of these sizes, over and over: positions from `first` on, and their logits."""
    state, step = decoder.new_state(), 0
    while state.length < len(ids):
        start, size = state.length, min(sizes[step % len(sizes)], decoder.max_rows)
        batch = Batch.of([(state, ids[start : start + size])], logits="none")
        wanted = np.flatnonzero(batch.positions >= first).astype(np.int32)
        logits = decoder.step(replace(batch, logits=wanted)).logits
        if len(wanted):
            yield slice(max(first, start), state.length), logits
        step += 1


def worst_difference(
    decoder: Decoder, oracle: Oracle, ids: Sequence[int], sizes: Sequence[int] = (256,), first: int = 0
) -> float:
    """The largest |difference| between a decoder's logits and the oracle's, from position `first` on."""
    hidden = oracle.hidden(ids)
    return max(
        float(np.abs(logits - oracle.logits(hidden[rows])).max())
        for rows, logits in run(decoder, ids, sizes, first)
    )


def rounding_tolerance(config: ModelConfig, logits: Float32) -> float:
    """How far apart two float32 computations of the same logits may be.

    A sum of n products, in whatever order a library adds, is off by about sqrt(n) roundings of 2^-24. A
    layer has 16 operations in series (norm, linear, norm, rotation, scores, softmax, values, linear, norm,
    add; norm, linear, gate, linear, norm, add); embedding, last norm and head make three more. Their errors
    are added up as if all pointed the same way, for both computations, in units of the largest logit.
    """
    longest = max(config.hidden_size, config.intermediate_size, config.query_width)
    operations = 16 * config.num_layers + 3
    return float(2 * 2.0**-24 * longest**0.5 * operations * np.abs(logits).max())


@dataclass(frozen=True)
class Fidelity:
    """How far an executor's next-token distributions are from the oracle's, over all positions of a text.

    KL divergence from the oracle's distribution in nats; `top1`: how often both agree on the likeliest token.
    """

    tokens: int
    mean_kl: float
    p99_kl: float
    top1: float


def fidelity(steps: Iterable[tuple[slice, Float32]], oracle: Oracle, ids: Sequence[int]) -> Fidelity:
    """Measure logits that come step by step, as from `run`: those of a long text need not fit in memory."""
    hidden = oracle.hidden(ids)
    divergences, agreements = [], []
    for rows, logits in steps:
        expected, got = torch.from_numpy(oracle.logits(hidden[rows])), torch.from_numpy(logits)
        divergences.append(divergence(expected, got))
        agreements.append((expected.argmax(-1) == got.argmax(-1)).numpy())
    every, agreement = np.concatenate(divergences), np.concatenate(agreements)
    return Fidelity(len(every), float(every.mean()), float(np.quantile(every, 0.99)), float(agreement.mean()))


def divergence(expected: torch.Tensor, got: torch.Tensor) -> NDArray[np.float64]:
    """KL(expected || got) of each row of two logit matrices, in nats.

    Log-probabilities in float32 carry errors of about 1e-6, three orders below what is measured.
    """
    result = []
    for some, other in zip(expected.split(_ROWS), got.split(_ROWS), strict=True):
        p, q = torch.log_softmax(some, -1), torch.log_softmax(other, -1)
        result.append((p.exp() * (p - q)).sum(-1, dtype=torch.float64))
    return torch.cat(result).numpy()
