"""What a run takes of memory, part by part, and how it is cut to fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from gemlet.errors import TrainingError
from gemlet.model.config import ModelConfig
from gemlet.tune.settings import Settings

LOGITS = 1 << 26
"""Held at a time, as in tune/loss.py."""

SPARE_BYTES = 1 << 27
"""Buffers of the libraries, and what the allocator cannot give back."""

MOST_MICRO_TOKENS, LEAST_MICRO_TOKENS = 1024, 512
"""More tokens at a time take memory and save no time; fewer would not keep the processor busy."""


@dataclass(frozen=True)
class Memory:
    """Bytes beyond what the process holds without a model. `trained`: values with gradients and AdamW's two
    means. `activations`: of the tokens computed at a time."""

    frozen: int
    trained: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        return self.frozen + self.trained + self.activations + self.loss + SPARE_BYTES


@dataclass(frozen=True)
class Cut:
    """How a step is computed: so many tokens at a time; `recompute` keeps one tensor a layer."""

    micro_tokens: int
    recompute: bool
    memory: Memory


def memory_of(config: ModelConfig, settings: Settings, stored_bytes: int, cut: tuple[int, bool]) -> Memory:
    """Of a run on a model whose packed matrices take `stored_bytes`. cut: micro_tokens and recompute."""
    micro_tokens, recompute = cut
    size = 2 if settings.precision == "bf16" else 4
    shapes = config.tensor_shapes()
    values = sum(prod(shape) for shape in shapes.values())
    table = prod(shapes["token_embd"])
    if settings.method == "full":
        # The embedding's gradient is summed in float32 beside that of the look-up.
        frozen, trained = 0, 16 * values + 8 * table
    else:
        blocks = stored_bytes - table if settings.base == "stored" else size * (values - table)
        frozen, trained = blocks + size * table, 16 * lora_values(config, settings)
    kept = _kept_a_layer(config, size)
    layers = config.num_layers
    a_token = layers * 4 * config.hidden_size + 2 * kept if recompute else (layers + 1) * kept
    loss = 2 * size * LOGITS + 4 * micro_tokens * config.hidden_size
    return Memory(frozen, trained, micro_tokens * a_token, loss)


def lora_values(config: ModelConfig, settings: Settings) -> int:
    """Numbers that LoRA trains."""
    return sum(
        settings.lora.rank * sum(shape)
        for name, shape in config.tensor_shapes().items()
        if len(shape) == 2 and name.startswith("blk.") and name.split(".")[-1] in settings.lora.targets
    )


def _kept_a_layer(config: ModelConfig, size: int) -> int:
    """Bytes that a layer keeps of each token for the backward pass: `size` a value, its inputs float32."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.query_width, config.key_value_width
    # Inputs of two norms; two results of norms, and two inputs of those after; q and k before and after
    # their norms, v; attention's result; gate, up and their product.
    return 8 * hidden + size * (4 * hidden + 2 * queries + 3 * keys + queries + 3 * inner)


def cut_to_fit(
    config: ModelConfig, settings: Settings, stored_bytes: int, longest: int, available: int | None
) -> Cut:
    """The fastest way to compute steps within the memory that is available; None is no limit.

    longest: tokens of the longest item. TrainingError with what would help where nothing fits.
    """
    sizes = [max(min(settings.batch_tokens, MOST_MICRO_TOKENS), longest)]
    while sizes[-1] // 2 >= max(LEAST_MICRO_TOKENS, longest):
        sizes.append(sizes[-1] // 2)
    if sizes[-1] > longest >= LEAST_MICRO_TOKENS:
        sizes.append(longest)
    for recompute in (False, True):
        for size in sizes:
            memory = memory_of(config, settings, stored_bytes, (size, recompute))
            if available is None or memory.total <= available:
                return Cut(size, recompute, memory)
    raise TrainingError(
        f"this run needs {memory.total / 1e9:.2f} GB, {(available or 0) / 1e9:.2f} GB are available",
        hint=_alternatives(config, settings, stored_bytes, sizes[-1], available or 0),
    )


def _alternatives(
    config: ModelConfig, settings: Settings, stored_bytes: int, size: int, available: int
) -> str:
    """What would fit, or come nearer."""
    ways = []
    if settings.method == "full":
        ways.append(("--method lora", replace(settings, method="lora"), size))
    if settings.base == "dense":
        ways.append(("--base stored", replace(settings, method="lora", base="stored"), size))
    if size > LEAST_MICRO_TOKENS:
        ways.append((f"--length {size // 2}", settings, size // 2))
    lines = []
    for flag, other, tokens in ways:
        needed = memory_of(config, other, stored_bytes, (tokens, True)).total
        lines.append(f"{flag} needs {needed / 1e9:.2f} GB{'' if needed > available else ', which fits'}")
    return "; ".join(lines or ["a smaller model, or a machine with more memory"])
