"""`gemlet serve`: its flags, and that it serves and ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from gemlet.cli.main import main
from tests.cli.server_process import served
from tests.infer.fake_model import fake_model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port must be"),
        (["--api-key-file", "no/such/file"], "--api-key-file"),
        (["--deadline", "0"], "--deadline"),
        (["--deadline", "soon"], "--deadline"),
        (["--grace", "-1"], "--grace"),
        (["--tls-key", "no/such/file"], "--tls-cert"),
    ],
)
def test_wrong_flags(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments], load=lambda *_, **__: fake_model()) != 0
    assert message in capsys.readouterr().err


def test_a_key_file_without_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "keys"
    empty.write_text("\n \n")
    assert main(["serve", "--api-key-file", str(empty)], load=lambda *_, **__: fake_model()) == 7
    assert "holds no key" in capsys.readouterr().err


def test_recording_is_said_also_when_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listing: list[Path] = []
    monkeypatch.setattr(
        "uvicorn.Server.run", lambda self, sockets: listing.extend((tmp_path / "traffic").iterdir())
    )
    arguments = ["serve", "-q", "--port", "0", "--record", str(tmp_path / "traffic")]
    assert main(arguments, load=lambda *_, **__: fake_model()) == 0
    (file,) = listing
    told = capsys.readouterr().err
    assert f"RECORDING: prompts and answers are written to {file}" in told
    assert "0 requests recorded" in told and not file.exists()  # nothing was asked
    (tmp_path / "other").touch()
    arguments[-1] = str(tmp_path / "other")
    assert main(arguments, load=lambda *_, **__: fake_model()) == 7


def test_it_serves_until_it_is_interrupted() -> None:
    with served(GEMLET_API_KEY="k") as server, server.http() as http:
        answer = http.get("/v1/models", headers={"authorization": "Bearer k"})
        assert answer.status_code == 200 and answer.json()["data"]
        assert http.get("/v1/models").status_code == 401
        server.process.send_signal(signal.SIGINT)
        code, told = server.ended()
    assert code == 0 and '"path": "/v1/models"' in told
