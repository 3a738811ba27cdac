"""A run's curves as TensorBoard's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gemlet.errors import GemletError
from gemlet.tune.train import Progress


def curves(folder: Path) -> Callable[[Progress], None]:
    """What writes each step and validation there. GemletError without the package that does."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        hint = "pip install tensorboard"
        raise GemletError("--tensorboard needs the package tensorboard", hint=hint) from None
    writer = SummaryWriter(str(folder))

    def told(progress: Progress) -> None:
        if progress.loss is not None:
            writer.add_scalar("loss", progress.loss, progress.step)
            writer.add_scalar("tokens a second", progress.tokens_per_s, progress.step)
        if progress.valid_loss is not None:
            writer.add_scalar("held-out loss", progress.valid_loss, progress.step)
        writer.flush()

    return told
