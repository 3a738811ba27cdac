"""A picture of what was measured beside what the machine allows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemlet.errors import InvalidRequestError, MissingExtraError
from gemlet.evaluate.stages import OURS

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Whether a plot can be written there; nothing is imported. MissingExtraError, InvalidRequestError."""
    import importlib.util

    if path.suffix.lower() not in FORMATS:
        raise InvalidRequestError(f"{path}: a plot is one of {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("--plot", "bench")


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the picture: for each stage the share of the machine's limit that each engine reaches."""
    check_plot(path)
    from matplotlib.figure import Figure

    stages = [stage for stage in result["stages"] if stage["limit"]]
    engines = list(dict.fromkeys(name for stage in stages for name in stage["values"]))
    height = 0.8 / len(engines)
    figure = Figure(figsize=(9, 1.6 + 0.42 * len(stages) * max(1.3, len(engines))), layout="constrained")
    axes = figure.add_subplot()
    for i, name in enumerate(engines):
        places, shares, spreads, labels = [], [], [], []
        for place, stage in enumerate(stages):
            if name not in stage["values"]:
                continue
            share = [100 * value for value in stage["shares"][name]]
            middle = statistics.median(share)
            places.append(place + (i - (len(engines) - 1) / 2) * height)
            shares.append(middle)
            spreads.append((middle - min(share), max(share) - middle))
            labels.append(_label(stage, name))
        colour = "#2f6f9f" if name == OURS else "#b8b8b8"
        axes.barh(places, shares, height * 0.92, color=colour, label=name)
        low, high = zip(*spreads, strict=True)
        axes.errorbar(
            shares, places, xerr=[low, high], fmt="none", ecolor="#333333", elinewidth=0.8, capsize=2
        )
        for where, share, (_, above), text in zip(places, shares, spreads, labels, strict=True):
            axes.text(share + above + 1.5, where, text, va="center", fontsize=8)
    axes.set_yticks(
        range(len(stages)), [f"{stage['name']}\n(limit: {stage['bound']})" for stage in stages], fontsize=8
    )
    axes.invert_yaxis()
    axes.axvline(100, color="#aa3333", linewidth=1.2, label="the machine's limit")
    axes.set_xlim(0, max(128, axes.get_xlim()[1]))
    axes.set_xlabel("share of what the machine allows, %, median and spread of the rounds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(_title(result), fontsize=9, loc="left")
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InvalidRequestError(f"{path}: cannot be written: {error.strerror}") from None


def _label(stage: Mapping[str, Any], name: str) -> str:
    value = statistics.median(stage["values"][name])
    return f"{value:.3g} {stage['unit']}" if value < 100 else f"{value:.0f} {stage['unit']}"


def _title(result: Mapping[str, Any]) -> str:
    machine, settings = result["machine"], result["settings"]
    return (
        f"{settings['model']} on {machine['processor']}, {settings['threads']} threads, "
        f"{machine['instruction_set']}, {result['date'][:10]}"
    )
