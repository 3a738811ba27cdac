"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gemlet.errors import ModelFileError
from gemlet.formats.files import MAX_JSON_BYTES, map_file, read_json, replaced_file


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with replaced_file(target) as file:
        file.write(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert os.listdir(target.parent) == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replaced_file(target) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_processes_that_write_at_once_do_not_mix(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gemlet.formats.files import replaced_file\n"
        "for _ in range(20):\n"
        "    with replaced_file(Path(sys.argv[1])) as f:\n"
        "        for _ in range(50): f.write(sys.argv[2].encode() * 1000); f.flush()\n"
    )
    target = tmp_path / "file"
    workers = [subprocess.Popen([sys.executable, "-c", code, str(target), letter]) for letter in "ab"]
    while any(worker.poll() is None for worker in workers):
        if target.exists():
            content = target.read_bytes()
            assert len(content) == 50_000 and len(set(content)) == 1
    assert [worker.returncode for worker in workers] == [0, 0]
    assert os.listdir(tmp_path) == ["file"]


def test_a_mapped_file_is_read_only_and_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert len(map_file(tmp_path / "empty", at_least=0)) == 0
    with pytest.raises(ModelFileError, match="0 bytes"):
        map_file(tmp_path / "empty")
    (tmp_path / "file").write_bytes(b"abc")
    data = map_file(tmp_path / "file")
    assert data.tobytes() == b"abc" and not data.flags.writeable


def test_a_huge_json_file_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(ModelFileError, match="larger"):
        read_json(tmp_path / "config.json")
