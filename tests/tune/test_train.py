"""Training runs: they learn, go on to the bit where they were cut off, and end cleanly however they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gemlet.errors import ModelFileError, OutputError, TrainingError
from gemlet.formats.safetensors import read_arrays
from gemlet.model.adapters import read_adapter
from gemlet.tune import checkpoint, train
from gemlet.tune.examples import Example, Pair
from gemlet.tune.job import Listener, read_run, settings_of
from gemlet.tune.train import Progress
from tests.tune.training import CONFIG, SETTINGS, Data, examples, opened, trained, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def values(folder: Path) -> dict[str, np.ndarray]:
    arrays, _ = read_arrays(folder / "adapter_model.safetensors")
    return arrays


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / train.LOG).read_text().splitlines()]


def test_a_run_learns_and_leaves_an_adapter_that_the_engine_reads(model: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    network, result = trained(model, tmp_path / "out", listener=Listener(progress=told.append))
    assert result.ending == "finished" and result.best_valid_loss is not None
    assert result.start_valid_loss is not None and result.best_valid_loss < result.start_valid_loss - 0.3
    steps = [entry for entry in log(tmp_path / "out") if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, result.steps + 1))
    assert sum(entry["tokens"] for entry in steps) == result.tokens
    assert [p.loss for p in told if p.loss is not None] == [entry["loss"] for entry in steps]
    base = opened(model)
    adapter = read_adapter(tmp_path / "out", CONFIG, base.weights.sha256)
    assert adapter.base_sha256 == base.weights.sha256 and adapter.rank == 4
    assert adapter.parts.keys() == network.adapted.keys()
    document = read_run(tmp_path / "out")
    assert settings_of(document) == replace(SETTINGS, learning_rate=SETTINGS.rate)
    assert document["result"]["ending"] == "finished" and document["forecast"]["tokens"] == result.tokens


def test_the_best_validation_is_what_remains(model: Path, tmp_path: Path) -> None:
    """Held-out sequences go the other way: soon every step makes them less likely."""
    backwards = tuple(Example(x.ids[::-1].copy(), x.learned, x.source) for x in examples(6, seed=1))
    settings = replace(SETTINGS, epochs=20, valid_every=2, patience=3)
    network, result = trained(model, tmp_path / "out", settings, Data(examples(30), backwards))
    validations = [(e["valid_loss"], e["step"]) for e in log(tmp_path / "out") if "valid_loss" in e]
    best = min(validations[1:])
    assert result.ending == "early" and (result.best_valid_loss, result.best_step) == best
    assert [step for _, step in validations][-3:] == [best[1] + 2, best[1] + 4, best[1] + 6]
    kept, _ = read_arrays(tmp_path / "out/checkpoints" / checkpoint.BEST)
    name = next(iter(network.adapted))
    assert np.array_equal(network.adapted[name].b.detach().numpy(), kept[f"parameter.{name}.b"])


@pytest.mark.parametrize("cut", [0, 3, 7])
def test_a_stopped_run_goes_on_to_the_same_bits(model: Path, tmp_path: Path, cut: int) -> None:
    """Dropout, the optimizer's means, the order of examples, the best validation: all as if never stopped."""
    trained(model, tmp_path / "whole")
    done = 0

    def count(progress: Progress) -> None:
        nonlocal done
        done = progress.step

    stopping = Listener(progress=count, stop=lambda: done >= cut)
    _, result = trained(model, tmp_path / "cut", listener=stopping)
    assert (result.ending, result.steps) == ("interrupted", cut)
    assert not (tmp_path / "cut/adapter_config.json").exists()
    _, result = trained(model, tmp_path / "cut", resume=True)
    assert result.ending == "finished"
    assert same(values(tmp_path / "cut"), values(tmp_path / "whole"))
    for entry, other in zip(log(tmp_path / "cut"), log(tmp_path / "whole"), strict=True):
        timeless = {"seconds", "tokens_per_s"}
        assert {k: v for k, v in entry.items() if k not in timeless} == {
            k: v for k, v in other.items() if k not in timeless
        }


KILLS = int(os.environ.get("GEMLET_KILLS", "3"))

_CHILD = """
import sys
from pathlib import Path
from gemlet.tune import train
from tests.tune.test_train import LONG
from tests.tune.training import trained
train.CHECKPOINT_S = 0.0
trained(Path(sys.argv[1]), Path(sys.argv[2]), LONG, resume=(Path(sys.argv[2]) / "run.json").exists())
"""

LONG = replace(SETTINGS, epochs=12, patience=None)


def test_a_killed_run_goes_on_to_the_same_bits(model: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments between two steps and the next, with a checkpoint after every one."""
    trained(model, tmp_path / "whole", LONG)
    rng = np.random.default_rng()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", _CHILD, str(model), str(tmp_path / "cut")]
    written = tmp_path / "cut" / train.LOG
    for _ in range(KILLS):
        child = subprocess.Popen(arguments, env=environment)
        before = written.stat().st_mtime_ns if written.exists() else 0
        while child.poll() is None and not (written.exists() and written.stat().st_mtime_ns > before):
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, 0.06)))
        assert child.poll() is None, "it ended before it was killed"
        child.kill()
        child.wait()
    subprocess.run(arguments, env=environment, check=True)
    steps = [entry["step"] for entry in log(tmp_path / "cut") if "loss" in entry]
    assert steps == list(range(1, len(steps) + 1))
    assert same(values(tmp_path / "cut"), values(tmp_path / "whole"))


def test_a_full_disk_ends_the_run_and_keeps_the_checkpoint_before(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(model, tmp_path / "whole")
    monkeypatch.setattr(train, "CHECKPOINT_S", 0.0)
    write, left = checkpoint.write_safetensors, 6

    def full(path: Path, *rest: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        write(path, *rest)

    monkeypatch.setattr(checkpoint, "write_safetensors", full)
    with pytest.raises(OutputError, match=r"No space left[^$]*--resume"):
        trained(model, tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "write_safetensors", write)
    trained(model, tmp_path / "cut", resume=True)
    assert same(values(tmp_path / "cut"), values(tmp_path / "whole"))


def test_a_loss_that_is_no_number_is_told_and_loses_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = train.total_loss, 0

    def broken(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        return real(*arguments) * (float("nan") if calls == 8 else 1.0)

    monkeypatch.setattr(train, "total_loss", broken)
    with pytest.raises(TrainingError, match=r"step \d+: the loss .* train\.jsonl:\d+[^$]*--lr"):
        trained(model, tmp_path / "out")
    (newest,) = checkpoint.checkpoints(tmp_path / "out/checkpoints")
    arrays, _ = read_arrays(newest)
    assert all(np.isfinite(values).all() for values in arrays.values())


def test_a_run_goes_on_with_its_own_data_and_settings_only(model: Path, tmp_path: Path) -> None:
    trained(model, tmp_path / "out", listener=Listener(stop=lambda: True))
    with pytest.raises(ModelFileError, match="other settings, data or model"):
        trained(model, tmp_path / "out", replace(SETTINGS, learning_rate=1e-3), resume=True)
    with pytest.raises(ModelFileError, match="other settings, data or model"):
        trained(model, tmp_path / "out", data=Data(examples(30), sha256="1" * 64), resume=True)
    with pytest.raises(OutputError, match="exists already"):
        trained(model, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="exists already"):
        trained(model, tmp_path / "file")


def test_a_damaged_checkpoint_is_refused(model: Path, tmp_path: Path) -> None:
    trained(model, tmp_path / "out", listener=Listener(stop=lambda: True))
    (newest,) = checkpoint.checkpoints(tmp_path / "out/checkpoints")
    data = newest.read_bytes()
    for damaged in (data[:100], data[: len(data) // 2], b"", data.replace(b"best_step", b"worst_tep")):
        newest.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            trained(model, tmp_path / "out", resume=True)


def test_memory_that_does_not_suffice_is_refused_with_what_would(model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"needs .* GB[^$]*--base stored"):
        trained(model, tmp_path / "out", available=1000)


def test_preferences_become_likelier(model: Path, tmp_path: Path) -> None:
    def pair(example: Example) -> Pair:
        worse = example.ids.copy()
        worse[2:] = (worse[2:] + 7) % CONFIG.vocab_size
        return Pair(example, Example(worse, example.learned, example.source))

    data = Data(tuple(map(pair, examples(120))), tuple(map(pair, examples(6, seed=1))))
    settings = replace(SETTINGS, method="dpo", batch_tokens=160, epochs=4, patience=None)
    _, result = trained(model, tmp_path / "out", settings, data)
    # Before the first step both answers are as likely as to the base: -log(1/2), whatever they are.
    assert result.start_valid_loss == pytest.approx(np.log(2), abs=1e-6)
    assert result.best_valid_loss is not None and result.best_valid_loss < 0.6


def test_full_training_moves_every_value(model: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, method="full", learning_rate=1e-3)
    network, result = trained(model, tmp_path / "out", settings)
    assert result.best_valid_loss is not None and result.start_valid_loss is not None
    assert result.best_valid_loss < result.start_valid_loss - 0.3
    before = opened(model).weights
    for name, vector in before.vectors.items():
        assert not np.array_equal(network.vectors[name].detach().numpy(), vector), name


_PROCESS = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from gemlet.tune import job, memory
from tests.tune.training import SETTINGS, trained
torch.set_num_threads(1)
# Parts of 20 tokens, so that there are some for each process.
job.cut_to_fit = lambda *arguments: memory.Cut(20, False, memory.Memory(0, 0, 0, 0))
lora = replace(SETTINGS.lora, dropout=0.0)
trained(Path(sys.argv[1]), Path(sys.argv[2]), replace(SETTINGS, lora=lora, precision="f32"))
"""


def test_two_processes_equal_one(model: Path, tmp_path: Path) -> None:
    """Each computes a part of every step; the gradients' sums are taken in another order, that is all.

    AdamW turns a rounding of a gradient into as large a share of the rate: after 20 steps of 5e-3, losses
    that fall by more than one may differ by 1e-4.
    """
    script = tmp_path / "process.py"
    script.write_text(_PROCESS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for count in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        subprocess.run(
            [*launch, str(script), str(model), str(tmp_path / f"out{count}")], env=environment, check=True
        )
    one, two = log(tmp_path / "out1"), log(tmp_path / "out2")
    assert len(one) == len(two) > 20
    for entry, other in zip(one, two, strict=True):
        key = "loss" if "loss" in entry else "valid_loss"
        assert other[key] == pytest.approx(entry[key], abs=1e-4)
    assert read_run(tmp_path / "out2")["processes"] == 2
