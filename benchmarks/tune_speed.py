"""LoRA training beside TRL's SFTTrainer with PEFT: tokens a second, memory, and the losses of the same steps.

    python benchmarks/tune_speed.py MODEL.gguf --folder MODEL_FOLDER [--labels 0.3] [--rounds 3]

Both train rank 16 on every linear module from the same start, on the same sequences of real text, 4 of 512
tokens a step, in bf16, in turns, each in a process of its own. MODEL_FOLDER holds the same weights for
transformers (`gemlet export --format transformers --type bf16`). Needs trl.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gemlet.evaluate.record import spread
from results_file import write_result

SEQUENCES, LENGTH, RATE = 4, 512, 2e-4


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("model", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--labels", type=float, default=1.0, help="share of the tokens that are learned")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--worker", choices=["gemlet", "trl"])
    parser.add_argument("--start", type=Path)
    parsed = parser.parse_args()
    if parsed.worker:
        found = {"gemlet": train_here, "trl": train_there}[parsed.worker](parsed)
        print("RESULT " + json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as name:
        parsed.start = Path(name) / "start"
        rounds = [{who: run_worker(who, parsed) for who in ("gemlet", "trl")} for _ in range(parsed.rounds)]
    found = summary(rounds)
    print(json.dumps(found, indent=1))
    path = write_result(
        f"tune-speed-{round(100 * parsed.labels)}",
        [found],
        models=[parsed.model],
        packages=["torch", "transformers", "peft", "trl"],
        settings={"sequences": SEQUENCES, "length": LENGTH, "labels": parsed.labels, "rounds": parsed.rounds},
    )
    print(path)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    rates = {who: [rate for turn in rounds for rate in turn[who]["tokens_per_s"][1:]] for who in rounds[0]}
    memory = {who: max(turn[who]["peak_bytes"] for turn in rounds) for who in rounds[0]}
    losses = {who: rounds[0][who]["losses"] for who in rounds[0]}
    differences = [abs(a - b) for a, b in zip(*losses.values(), strict=True)]
    medians = {who: statistics.median(values) for who, values in rates.items()}
    return {
        "tokens_per_s": {who: spread(values) for who, values in rates.items()},
        "ratio": medians["gemlet"] / medians["trl"],
        "peak_bytes": memory,
        "memory_share": memory["gemlet"] / memory["trl"],
        "largest_loss_difference": max(differences),
        "losses": losses,
    }


def run_worker(who: str, parsed: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, str(parsed.model), "--folder", str(parsed.folder)]
    command += ["--labels", str(parsed.labels), "--steps", str(parsed.steps)]
    command += ["--worker", who, "--start", str(parsed.start)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        sys.exit(f"{who} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    print(who, found, file=sys.stderr, flush=True)
    return found


def sequences(parsed: argparse.Namespace, tokenizer: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Real text cut into sequences; the last part of each is learned, or all but its first token."""
    from gemlet.evaluate.texts import HELD_OUT
    from gemlet.store.load import SAMPLES

    texts = [HELD_OUT, SAMPLES, *sorted(Path(os.__file__).parent.glob("*.py"))[:60]]
    ids = [i for path in texts for i in tokenizer.encode(path.read_text("utf-8"), bos=False)]
    learned = np.arange(LENGTH) >= max(1, round(LENGTH * (1 - parsed.labels)))
    count = parsed.steps * SEQUENCES
    starts = range(0, count * (LENGTH - 1), LENGTH - 1)
    return [(np.array([2, *ids[s : s + LENGTH - 1]], np.int32), learned) for s in starts]


def train_here(parsed: argparse.Namespace) -> dict[str, Any]:
    from gemlet.model.weights import load
    from gemlet.store.load import open_tokenizer
    from gemlet.store.settings import cache_dir
    from gemlet.tune import job, train
    from gemlet.tune.adapter_folder import write_adapter
    from gemlet.tune.examples import Example
    from gemlet.tune.settings import Settings

    class Constant(Settings):
        def rate_at(self, step: int, steps: int) -> float:
            return self.rate

    class Data:
        train = tuple(
            Example(*part, f"text {number}")
            for number, part in enumerate(
                sequences(parsed, open_tokenizer(load(parsed.model, "stored", cache_dir=cache_dir())))
            )
        )
        valid = ()
        sha256 = "0" * 64

    train.epoch_steps = lambda lengths, most, *rest: train.filled(range(len(lengths)), lengths, most)
    settings = Constant(epochs=1, batch_tokens=SEQUENCES * LENGTH, length=LENGTH, learning_rate=RATE)
    with tempfile.TemporaryDirectory() as name:
        order = job.Order("base", Path(name) / "out", settings, {})

        kept = train.Run.timed

        def timed(run: Any) -> float:
            if not parsed.start.exists():
                parsed.start.mkdir()
                write_adapter(parsed.start, run.network, ("base", "0" * 64), {})
            return kept(run)

        train.Run.timed = timed
        job.train(lambda: load(parsed.model, "stored", cache_dir=cache_dir()), Data(), order, job.Listener())
        log = [json.loads(line) for line in (Path(name) / "out" / train.LOG).read_text().splitlines()]
    import resource

    return {
        "tokens_per_s": [entry["tokens_per_s"] for entry in log],
        "losses": [entry["loss"] for entry in log],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def train_there(parsed: argparse.Namespace) -> dict[str, Any]:
    import resource
    import time

    from transformers import TrainerCallback

    from gemlet.model.weights import load
    from gemlet.store.load import open_tokenizer
    from gemlet.store.settings import cache_dir

    tokenizer = open_tokenizer(load(parsed.model, "stored", cache_dir=cache_dir()))
    rows = [
        {"input_ids": ids.tolist(), "labels": np.where(learned, ids, -100).tolist()}
        for ids, learned in sequences(parsed, tokenizer)
    ]
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **rest: Any) -> None:
            times.append(time.perf_counter())

        def on_step_end(self, *arguments: Any, **rest: Any) -> None:
            times[-1] = time.perf_counter() - times[-1]

    with tempfile.TemporaryDirectory() as name:
        trainer = _their_trainer(parsed, rows, Path(name), Clock())
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "tokens_per_s": [SEQUENCES * LENGTH / seconds for seconds in times],
        "losses": [float(loss) for loss in losses],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _their_trainer(parsed: argparse.Namespace, rows: list[dict[str, Any]], folder: Path, clock: Any) -> Any:
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(parsed.folder, dtype=torch.bfloat16)
    settings = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=SEQUENCES,
        max_steps=parsed.steps,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        bf16=True,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        max_length=LENGTH,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )
    return SFTTrainer(
        PeftModel.from_pretrained(model, parsed.start, is_trainable=True),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        callbacks=[clock],
        processing_class=AutoTokenizer.from_pretrained(parsed.folder),
    )


if __name__ == "__main__":
    main()
