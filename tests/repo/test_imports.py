"""Arrows point down only: which folder may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.sources import PACKAGE, files, name

PROVENANCE = {f"provenance.{name}" for name in ("licences", "gemma_policy", "releases", "manifest")}
LEAVES = {"formats", "machine", "sandbox", "statistics"} | PROVENANCE
BASE = {"types", "errors", "version"}
BELOW_TEXT = BASE | LEAVES
BELOW_MODEL = BELOW_TEXT | {"ops"}
BELOW_INFER = BELOW_MODEL | {"model", "text"}
BELOW_STORE = BELOW_INFER | {"infer"}
BELOW_VERBS = BELOW_STORE | {"store"}
VERBS = {"serve", "code", "tune", "evaluate", "convert", "plan", "provenance.check"}

# part of gemlet -> the other parts it may import
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "types": {"errors"},
    "provenance": set(),
    **{leaf: BASE for leaf in LEAVES},
    "provenance.manifest": BASE | {"formats"},
    "ops": BELOW_TEXT,
    "text": BELOW_TEXT,
    "model": BELOW_MODEL,
    "infer": BELOW_INFER,
    "store": BELOW_STORE,
    **{verb: BELOW_VERBS for verb in VERBS},
    # What a model loses is measured in one way, whatever changed it.
    "evaluate.quality": BELOW_VERBS,
    "evaluate.texts": BELOW_VERBS,
    "evaluate.choices": BELOW_VERBS | {"evaluate.quality"},
    "tune": BELOW_VERBS | {"evaluate.quality", "evaluate.texts", "evaluate.choices"},
    "convert": BELOW_VERBS | {"evaluate.quality"},
    "code": BELOW_VERBS | {"evaluate.quality"},
    "evaluate": BELOW_VERBS,
    "evaluate.trial": BELOW_VERBS | {"evaluate", "plan.fit", "provenance.check"},
    "cli": BELOW_VERBS | VERBS,
    "": BELOW_VERBS,  # gemlet/__init__.py, which imports lazily
    "__main__": {"cli"},
}


def part_of(module: str) -> str:
    """The longest named part that a module belongs to: gemlet.provenance.check.x -> provenance.check."""
    names = module.split(".")[1:]
    for length in range(len(names), 0, -1):
        if ".".join(names[:length]) in MAY_IMPORT:
            return ".".join(names[:length])
    return ".".join(names[:1])


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(dotted: str) -> bool:
    path = PACKAGE.parent.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file() or dotted == "gemlet.ops._native"


def imports(path: Path, source: str) -> Iterator[str]:
    """Absolute names of the modules a file imports, wherever in the file."""
    own = module_name(path).split(".")
    package = own if path.name == "__init__.py" else own[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if base.split(".")[0] == "gemlet" and is_module(inner) else base


def offences(path: Path, source: str) -> list[str]:
    """What a file imports that it must not."""
    own = part_of(module_name(path))
    found = []
    for module in imports(path, source):
        top = module.split(".")[0]
        if top == "torch" and own not in ("tune", "evaluate", "evaluate.trial"):
            found.append(f"{name(path)} imports torch")
        if top != "gemlet":
            continue
        target = part_of(module)
        family = target == own or target.startswith(own + ".") or own.startswith(target + ".")
        if module.startswith("gemlet.ops._native") and own != "ops":
            found.append(f"{name(path)} imports {module}: only ops may")
        elif target == "" and own != "":
            found.append(f"{name(path)} imports the package itself")
        elif not family and not any(
            target == part or target.startswith(part + ".") for part in MAY_IMPORT[own]
        ):
            found.append(f"{name(path)} imports {module}")
    return found


def test_every_part_has_its_place() -> None:
    unknown = {part_of(module_name(path)) for path in files(".py", under="src/gemlet")} - set(MAY_IMPORT)
    assert not unknown, f"say in MAY_IMPORT what these may import: {sorted(unknown)}"


def test_arrows_point_down() -> None:
    found = [text for path in files(".py", under="src/gemlet") for text in offences(path, path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("text/template.py", "from gemlet.model.config import ModelConfig"),
        ("text/template.py", "from gemlet import model"),
        ("text/template.py", "from ..model import config"),
        ("model/weights.py", "import gemlet.text.tokenizer"),
        ("model/weights.py", "def f():\n    from gemlet.ops import _native"),
        ("ops/native.py", "from gemlet.model import decoder"),
        ("formats/gguf.py", "from gemlet.machine import cores"),
        ("infer/engine.py", "from gemlet.store import load"),
        ("store/load.py", "from gemlet.cli.main import main"),
        ("infer/chat.py", "import torch.nn"),
        ("infer/chat.py", "import gemlet"),
    ],
)
def test_an_arrow_that_points_up_is_found(file: str, source: str) -> None:
    assert offences(PACKAGE / file, source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("ops/native.py", "from gemlet.ops import _native"),
        ("cli/run.py", "from gemlet.infer.chat import Model\nimport json"),
        (
            "model/weights.py",
            "from gemlet.formats.tensors import Tensor\nfrom gemlet.ops.packed import Packed",
        ),
        ("errors.py", "from typing import ClassVar"),
    ],
)
def test_an_arrow_that_points_down_is_not(file: str, source: str) -> None:
    assert not offences(PACKAGE / file, source)


def test_importing_gemlet_is_light() -> None:
    """No terminal library, no tensor library, nothing that could reach a network."""
    listing = "import gemlet, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", listing], check=True, capture_output=True, text=True
    ).stdout
    heavy = {
        "asyncio", "fastapi", "gguf", "http.client", "httpx", "huggingface_hub", "jinja2", "numpy",
        "prompt_toolkit", "requests", "rich", "ssl", "tokenizers", "torch", "transformers",
        "urllib.request", "urllib3",
    }  # fmt: skip
    assert not heavy & set(loaded.split())
