"""Fits the constants of `gemlet plan` to measured steps and writes src/gemlet/plan/efficiency.json.

Usage: plan_fit.py RESULTS.json --models FOLDER... [--runtime BYTES PER_PIECE]
RESULTS.json: of plan_steps.py; --models: where the files are that it measured; --runtime: memory of a process
without a model, and of a tokenizer's piece. Prints the residuals. Needs: scipy.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from gemlet.ops.limits import Limits
from gemlet.plan.efficiency import DATA, Efficiency
from gemlet.plan.step_cost import CostModel, Step
from gemlet.plan.subject import Subject, from_file

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
HEAD_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
ATTENTION_ROWS = (1, 64, 256)
LAYER_FORMATS, HEAD_FORMATS = ("i4", "i8", "i4m", "bf16"), ("i8", "bf16")
KINDS = {"layers": "prefill", "deep": "prefill", "head": "streams", "streams": "streams"}
ADJUSTMENTS = 4
OVER = {"layers": 1.2, "head": 1.4}
"""Powers: how much a curve moves for a ratio, since it explains a part of the time only."""

SURE = 0.9
"""Share of the measurements that the error bar holds."""


class Sample:
    """One kind of step in one round: its median, beside the limits of that moment."""

    def __init__(self, told: dict[str, Any], subjects: dict[str, Subject]) -> None:
        kind, length, streams, rows, logits = told["cell"]
        self.kind, self.model, self.seconds = kind, told["model"], statistics.median(told["seconds"])
        wanted = {"none": 0, "last": streams, "all": streams * rows}[logits]
        self.step = Step(length, streams, rows, wanted)
        self.subject, self.limits = subjects[told["model"]], Limits(**told["limits"])
        formats = list(self.subject.layers.values_by_format)
        self.format = formats[0] if len(formats) == 1 else "i4m"
        self.forecast = "decode" if streams * rows == 1 and logits != "none" else KINDS[kind]


def start(samples: list[Sample]) -> dict[str, Any]:
    """Curves as if steps did nothing but products: of layers from the models of each format."""
    taken: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for sample in samples:
        rate = sample.limits.float_products if sample.format == "bf16" else sample.limits.byte_products
        weights = sum(sample.subject.layers.values_by_format.values())
        if sample.kind == "head":
            weights += sum(sample.subject.head.values_by_format.values())
        if sample.kind in ("layers", "head"):
            taken[sample.kind, sample.format, sample.step.rows].append(sample.seconds * rate / weights)
    curves = {
        kind: {name: [[row, statistics.median(taken[kind, name, row])] for row in rows] for name in formats}
        for kind, formats, rows in (
            ("layers", LAYER_FORMATS, ROWS),
            ("head", HEAD_FORMATS, HEAD_ROWS),
        )
    }
    return shared(curves)


def shared(curves: dict[str, Any]) -> dict[str, Any]:
    """With a curve for every format: those not measured alone have that of their width."""
    layers, head = curves["layers"], curves["head"]
    layers |= {"i8m": layers["i8"], "i8h": layers["i8"]}
    head |= dict.fromkeys(("i4", "i4m", "i8m", "i8h"), head["i8"])
    return curves


def with_globals(document: dict[str, Any], values: np.ndarray) -> dict[str, Any]:
    """A document with the logarithms of the constants that are no curve of a format."""
    few, some, many, layer_row, layer_s, sharpness = np.exp(values).tolist()
    points = zip(ATTENTION_ROWS, (few, some, many), strict=True)
    attention = [[row, row * cost] for row, cost in points]
    told = {"attention": attention, "layer_row": layer_row, "layer_s": layer_s, "sharpness": sharpness}
    return document | told


def adjusted(samples: list[Sample], document: dict[str, Any]) -> dict[str, Any]:
    """Curves moved to where the steps that they alone explain are met, and never falling."""
    document = copy.deepcopy(document)
    for _ in range(ADJUSTMENTS):
        efficiency = Efficiency.of(document)
        ratios: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        for sample in samples:
            ratio = sample.seconds / forecast(sample, efficiency)
            if sample.kind == "layers":
                ratios["layers", sample.format, sample.step.rows].append(ratio)
            elif sample.step.logits in HEAD_ROWS and sample.step.length <= 64:
                name = "bf16" if sample.format == "bf16" else "i8"
                ratios["head", name, sample.step.logits].append(ratio)
        for kind, formats in (("layers", LAYER_FORMATS), ("head", HEAD_FORMATS)):
            for name in formats:
                least = 0.0
                for point in document[kind][name]:
                    moved = point[1] * float(np.median(ratios[kind, name, point[0]])) ** OVER[kind]
                    point[1] = least = max(least, float(f"{moved:.4g}"))
        document |= shared({kind: document[kind] for kind in ("layers", "head")})
    return document


def fit(samples: list[Sample], document: dict[str, Any]) -> dict[str, Any]:
    """The constants that bring forecasts nearest to measurements: what curves do not say by search."""
    document = document | start(samples)
    weights = np.array([1.0 if sample.kind == "layers" else 2.0 for sample in samples])
    low, high = np.log([0.3, 0.3, 0.3, 5, 2e-7, 1.5]), np.log([30, 10, 10, 600, 4e-5, 12])

    def loss(values: np.ndarray) -> float:
        inside = np.clip(values, low, high)
        tried = adjusted(samples, with_globals(document, inside))
        efficiency = Efficiency.of(tried)
        apart = np.array([np.log(forecast(sample, efficiency) / sample.seconds) for sample in samples])
        return float((weights * np.sqrt(apart**2 + 0.03**2)).sum() + 100 * np.abs(values - inside).sum())

    first = np.log([3.0, 1.5, 1.5, 60.0, 5e-6, 3.0])
    found = minimize(loss, first, method="Nelder-Mead", options={"maxfev": 220, "xatol": 0.02, "fatol": 0.05})
    print(f"loss {found.fun:.2f} after {found.nfev} trials")
    return adjusted(samples, with_globals(document, np.clip(found.x, low, high)))


def undisturbed(samples: list[Sample]) -> list[Sample]:
    """Without what took half as long again as the median of its cell: something else ran then."""
    cells: dict[tuple[Any, ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        cells[sample.model, sample.kind, sample.step].append(sample)
    kept = []
    for group in cells.values():
        usual = statistics.median_low(sample.seconds for sample in group)
        kept += [sample for sample in group if sample.seconds <= 1.5 * usual]
    print(f"{len(samples) - len(kept)} of {len(samples)} samples were disturbed and are left out")
    return kept


def forecast(sample: Sample, efficiency: Efficiency) -> float:
    return CostModel(sample.subject, sample.limits, efficiency).seconds(sample.step)


def errors(samples: list[Sample], document: dict[str, Any]) -> dict[str, float]:
    """By kind of forecast, the deviation that nine of ten measurements stay within; printed cell by cell."""
    efficiency = Efficiency.of(document)
    apart: dict[str, list[float]] = defaultdict(list)
    cells: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for sample in samples:
        ratio = forecast(sample, efficiency) / sample.seconds
        apart[sample.forecast].append(abs(ratio - 1))
        cells[sample.model, sample.kind, sample.step].append(ratio)
    for (model, kind, step), ratios in cells.items():
        told = " ".join(f"{ratio:.2f}" for ratio in ratios)
        shape = f"{step.length:5} x{step.streams} rows {step.rows:3} logits {step.logits:2}"
        print(f"{model:22} {kind:8} {shape}: {told}")
    return {kind: float(f"{np.quantile(values, SURE):.3f}") for kind, values in apart.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--runtime", type=float, nargs=2, metavar=("BYTES", "PER_PIECE"), default=(49e6, 171))
    args = parser.parse_args()
    result = json.loads(args.results.read_text())
    told = result["settings"]["samples"]
    subjects = {name: subject(name, args.models) for name in {one["model"] for one in told}}
    samples = undisturbed([Sample(one, subjects) for one in told])
    threads = result["settings"]["threads"]
    rates = {
        name: {kind: value / threads for kind, value in limits.items() if kind != "read_bytes"}
        for name, limits in result["settings"]["instruction_sets"].items()
    }
    document = {
        "errors": {},
        "rates": rates,
        "runtime_bytes": int(args.runtime[0]),
        "tokenizer_bytes_per_piece": args.runtime[1],
        "source": f"benchmarks/results/{args.results.name}",
    }
    document = fit(samples, document)
    document["errors"] = errors(samples, document)
    DATA.write_text(json.dumps(document, indent=1) + "\n")
    print(
        json.dumps(
            {key: document[key] for key in ("errors", "attention", "layer_row", "layer_s", "sharpness")}
        )
    )


def subject(name: str, folders: list[Path]) -> Subject:
    file, _, weights = name.partition("=")
    return next(from_file(folder / file, weights) for folder in folders if (folder / file).exists())


if __name__ == "__main__":
    main()
