"""`gemlet tune` from the command line: a tiny model is taught, and what that leaves is used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gemlet
from gemlet.cli.main import main
from gemlet.cli.terminal import EXIT_INTERRUPTED
from gemlet.cli.tune_progress import curve, duration
from gemlet.errors import DataError, InvalidRequestError, MissingExtraError, OutputError, TrainingError
from gemlet.model.adapters import CHAT_TEMPLATE
from gemlet.provenance.manifest import changed_files, read_manifest
from tests.synthetic import tiny_config, write_tiny_gguf

WORDS = ("bridge", "soup", "garden", "lamp", "river", "timer", "window", "bread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path, tiny_config(layers=2), np.random.default_rng(7), "F32")
    return path


Write = Callable[[Callable[[str, int], Mapping[str, Any]]], Path]


@pytest.fixture
def data(tmp_path: Path) -> Write:
    def write(line: Callable[[str, int], Mapping[str, Any]]) -> Path:
        path = tmp_path / "data.jsonl"
        lines = [line(WORDS[n % len(WORDS)] + "s" * (n // len(WORDS)), n) for n in range(40)]
        path.write_text("".join(json.dumps(value) + "\n" for value in lines))
        return path

    return write


def completion(word: str, number: int) -> Mapping[str, Any]:
    return {"prompt": f"Item {number}: the {word} is", "completion": " old" if number % 2 else " new"}


def conversation(word: str, number: int) -> Mapping[str, Any]:
    asked = {"role": "user", "content": f"Is the {word} open?"}
    return {"messages": [asked, {"role": "assistant", "content": "yes" if number % 2 else "no"}]}


STEPS = ["--epochs", "2", "--rank", "4", "--batch-tokens", "200", "--lr", "0.01"]
FAST = [*STEPS, "--no-report"]


def test_an_adapter_with_its_papers(
    tiny: Path, data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["tune", str(data(completion)), "-m", str(tiny), "-o", str(out), "--json", *FAST]
    assert main(command) == 0
    captured = capsys.readouterr()
    shown = json.loads(captured.out)
    assert shown["result"]["ending"] == "finished"
    assert shown["result"]["best_valid_loss"] < shown["result"]["start_valid_loss"]
    assert shown["settings"]["lora"]["rank"] == 4 and shown["settings"]["learning_rate"] == 0.01
    for told in ("examples", "tokens", "loss on held-out examples", "GB of memory"):
        assert told in captured.err
    names = {path.name for path in out.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "LICENSE", "Notice", "run.json"} <= names
    assert CHAT_TEMPLATE not in names  # completions teach no chat format
    made = read_manifest(out)
    assert made is not None and not changed_files(out, made)
    assert {item.role for item in made.inputs} == {"base", "data"}
    with gemlet.load(tiny) as before, gemlet.load(f"{tiny}+{out}") as after:
        asked = "Item 3: the lamp is"
        gains = [model.score(asked, " old").logprob for model in (before, after)]
        assert gains[1] > gains[0] + 1
        assert after.manifest.adapter_sha256


def test_a_base_that_is_taught_to_chat_chats(tiny: Path, data: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["tune", str(data(conversation)), "-m", str(tiny), "-o", str(out), "-q", *FAST]) == 0
    asked = [{"role": "user", "content": "Is the soup open?"}]
    with gemlet.load(tiny) as before, gemlet.load(f"{tiny}+{out}") as after:
        assert any("base model" in line for line in before.chat(asked, max_tokens=1).normalisations)
        assert not after.chat(asked, max_tokens=1).normalisations
        assert len(after.render(asked)) < len(before.render(asked))
        # Without it an answer never ends: the base model has no token that closes a turn.
        assert set(after.config.stop_ids) - set(before.config.stop_ids) == {106}
        assert before.manifest.template_sha256 != after.manifest.template_sha256


def test_a_report_of_what_was_gained_and_lost(
    tiny: Path, data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["tune", str(data(conversation)), "-m", str(tiny), "-o", str(out), *STEPS]
    assert main([*command, "--report-seconds", "8"]) == 0
    captured = capsys.readouterr()
    assert "report.html" in captured.out and "in its domain" in captured.out
    assert "measuring: " in captured.err
    report = json.loads((out / "report.json").read_text())
    assert report["evaluation"]["after"] != report["evaluation"]["before"]
    assert report["run"]["result"]["ending"] in ("finished", "early") and len(report["steps"]) > 2
    page = (out / "report.html").read_text()
    assert "<svg" in page and "://" not in page.replace("http://www.w3.org/2000/svg", "")
    made = read_manifest(out)
    assert made is not None and not changed_files(out, made)


def test_a_whole_model_is_trained_and_opens(tiny: Path, data: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["tune", str(data(completion)), "-m", str(tiny), "-o", str(out), *STEPS, "--lr", "0.003"]
    assert main([*command, "--method", "full", "--report-seconds", "5", "-q"]) == 0
    assert (out / "model/LICENSE").is_file() and not (out / "adapter_config.json").exists()
    with gemlet.load(tiny) as before, gemlet.load(out / "model", weights="stored") as after:
        asked = "Item 3: the lamp is"
        gains = [model.score(asked, " old").logprob for model in (before, after)]
        assert gains[1] > gains[0] + 1
    report = json.loads((out / "report.json").read_text())
    gained = [report["evaluation"][side]["weights_sha256"] for side in ("before", "after")]
    assert gained[0] != gained[1]


def test_the_data_is_checked_before_anything_is_made(
    tiny: Path, data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = data(completion), tmp_path / "out"
    command = ["tune", str(path), "-m", str(tiny), "-o", str(out), *FAST]
    assert main([*command, "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["splits"]["train"]["examples"] == 36
    with path.open("a") as file:
        file.write('{"prompt": "x", "completion": ""}\n')
    assert main(command) == DataError.exit_code
    assert "data.jsonl:41" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "error", "told"),
    [
        (["--method", "magic"], InvalidRequestError, "there is lora, full, dpo"),
        (["--rank", "0"], InvalidRequestError, "rank"),
        (["--lr", "nan"], InvalidRequestError, "learning_rate"),
        (["--targets", "attn_z"], InvalidRequestError, "attn_q"),
        (["--length", "1"], InvalidRequestError, "at least 2"),
        (["--memory", "-1"], InvalidRequestError, "--memory"),
        (["--memory", "0.001"], TrainingError, "needs"),
        (["--length", "4"], DataError, "longer"),
        (["--resume"], gemlet.ModelFileError, "run.json"),
        (["--group-key", "town"], DataError, "town"),
    ],
)
def test_what_cannot_be_is_refused(
    flags: list[str],
    error: type[gemlet.GemletError],
    told: str,
    tiny: Path,
    data: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["tune", str(data(completion)), "-m", str(tiny), "-o", str(tmp_path / "out"), *FAST, *flags]
    assert main(command) == error.exit_code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out/run.json").exists()


def test_a_folder_in_use_and_a_missing_extra(
    tiny: Path, data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", str(data(completion)), "-m", str(tiny), "-o", str(tmp_path), *FAST]
    assert main(command) == OutputError.exit_code
    assert "--resume" in capsys.readouterr().err
    code = "import sys; sys.modules['torch'] = None; from gemlet.cli.main import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == MissingExtraError.exit_code
    assert "gemlet[tune]" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_leaves_a_checkpoint_and_resume_goes_on(
    tiny: Path, data: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["tune", str(data(completion)), "-m", str(tiny), "-o", str(out)]
    long = [*command, *FAST, "--epochs", "100000", "--patience", "0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "gemlet", *long], env=environment, stderr=subprocess.PIPE, text=True
    )
    log = out / "log.jsonl"
    for _ in range(600):
        if log.exists() and log.read_text().count("\n") > 4:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == EXIT_INTERRUPTED and "--resume" in said and "Traceback" not in said
    assert main([*command, "--resume", "--lr", "0.5"]) == InvalidRequestError.exit_code
    assert "learning_rate" in capsys.readouterr().err
    done = log.read_text().count('"loss"')
    child = subprocess.Popen(
        [sys.executable, "-m", "gemlet", *command, "--resume", "-q"], env=environment, stderr=subprocess.PIPE
    )
    for _ in range(600):
        if log.read_text().count('"loss"') > done:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == EXIT_INTERRUPTED
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if '"loss"' in line]
    assert len(steps) > done and steps == list(range(1, len(steps) + 1))


def test_tensorboard_is_told_or_asked_for(
    tiny: Path,
    data: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["tune", str(data(completion)), "-m", str(tiny), "-q", "--tensorboard", *FAST]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main([*command, "-o", str(tmp_path / "one")]) == gemlet.GemletError.exit_code
    assert "pip install tensorboard" in capsys.readouterr().err
    told: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "two/tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def flush(self) -> None:
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    assert main([*command, "-o", str(tmp_path / "two")]) == 0
    log = [json.loads(line) for line in (tmp_path / "two/log.jsonl").read_text().splitlines()]
    losses = [("loss", entry["loss"], entry["step"]) for entry in log if "loss" in entry]
    assert [entry for entry in told if entry[0] == "loss"] == losses
    assert sum(name == "held-out loss" for name, _, _ in told) == len(log) - len(losses)


def test_a_curve_and_a_duration() -> None:
    assert curve([3.0, 2.0, 1.0]) == "█▄▁"
    assert len(curve([float(n) for n in range(1000)])) == 24
    assert curve([]) == "" and curve([1.0]) == "▁"
    assert [duration(s) for s in (5, 65, 7265, float("inf"))][:3] == ["5 s", "1 min 5 s", "2 h 1 min"]
