"""What deploy/ says of `gemlet serve` is true of it."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys

import pytest

from gemlet.cli.main import verb_parser
from gemlet.cli.serve import EXIT_CUT
from tests.cli.server_process import served
from tests.repo.sources import ROOT

UNIT = (ROOT / "deploy/systemd/gemlet.service").read_text()
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text().replace("\\\n", " ")
RAY = (ROOT / "deploy/ray/gemlet_ray.py").read_text()


def unit(key: str) -> str:
    (value,) = re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
    return str(value)


def instruction(name: str) -> str:
    *_, value = re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)
    return str(value)


@pytest.mark.parametrize("command", [shlex.split(unit("ExecStart")), json.loads(instruction("ENTRYPOINT"))])
def test_commands_have_flags_that_exist(command: list[str]) -> None:
    program, verb, *flags = command
    assert program.rsplit("/")[-1] == "gemlet" and verb == "serve"
    verb_parser("serve").parse_args(flags)


def test_the_unit_waits_for_running_answers() -> None:
    parsed = verb_parser("serve").parse_args(shlex.split(unit("ExecStart"))[2:])
    assert int(unit("TimeoutStopSec")) >= parsed.grace + 10
    assert int(unit("SuccessExitStatus")) == EXIT_CUT
    assert unit("DynamicUser") == unit("NoNewPrivileges") == unit("MemoryDenyWriteExecute") == "yes"


def test_the_image_copies_what_there_is_and_drops_root() -> None:
    copied = [line.split()[:-1] for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)]
    assert copied and all((ROOT / path).exists() for paths in copied for path in paths)
    assert instruction("USER") == "gemlet" and instruction("STOPSIGNAL") == "SIGTERM"
    extras = re.findall(r"\.whl\)\[([a-z,]+)\]", DOCKERFILE)[0].split(",")
    declared = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras)


def test_the_health_check_tells_a_server_from_none() -> None:
    check = json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])
    assert check[:2] == ["python", "-c"]
    with served() as server:
        port = server.url.rsplit(":", 1)[1]
        code = check[2].replace(":11435/", f":{port}/")
        assert code != check[2]
        assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
        server.process.kill()
        server.process.wait(10)
        gone = subprocess.run([sys.executable, "-c", code], timeout=30, stderr=subprocess.DEVNULL)
    assert gone.returncode != 0


def test_every_argument_for_ray_is_documented() -> None:
    (arguments,) = (node for node in ast.walk(ast.parse(RAY)) if isinstance(node, ast.ClassDef))
    fields = [node.target.id for node in arguments.body if isinstance(node, ast.AnnAssign)]  # type: ignore[union-attr]
    readme = (ROOT / "deploy/ray/README.md").read_text()
    assert len(fields) > 5 and all(f"`{field}`" in readme for field in fields)
    used = set(re.findall(r"arguments\.(\w+)|given\[\"(\w+)\"\]", RAY))
    assert {name for pair in used for name in pair if name} - {"model_dump"} == set(fields)
