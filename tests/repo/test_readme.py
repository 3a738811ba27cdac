"""What README and docs/ say exists, exists: commands with their flags, links, the tree, the tables."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from gemlet.cli.main import VERBS, verb_parser
from tests.repo.sources import PACKAGE, ROOT, name

README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<kind>[a-z]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(document: Path, *kinds: str) -> list[str]:
    return [match["body"] for match in FENCE.finditer(document.read_text()) if match["kind"] in kinds]


def commands(program: str, document: Path = README) -> list[str]:
    """Commands of one program in the shell blocks. In a block with a prompt, lines without one are output."""
    found = []
    for block in blocks(document, "sh", "console", "bash"):
        lines = block.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            for part in re.split(r"\s(?:\||&&|;)\s", " " + line):
                words = part.strip()
                if words.split(" ")[0] == program:
                    found.append(words)
    return found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def made(document: Path) -> set[str]:
    lines = [shlex.split(line, comments=True)[1:] for line in commands("make", document)]
    return {word for line in lines for word in line if "=" not in word}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_make_commands_exist(document: Path) -> None:
    assert made(document) <= make_targets()


def test_readme_shows_the_two_commands() -> None:
    assert {"demo", "test"} <= made(README)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_gemlet_commands_are_accepted_by_their_parsers(document: Path) -> None:
    for line in commands("gemlet", document):
        without_redirections = re.sub(r"\s[<>]\s*\S+", "", line)
        _, verb, *rest = shlex.split(without_redirections, comments=True)
        assert verb in VERBS, line
        verb_parser(verb).parse_args(rest)


def test_every_verb_is_shown() -> None:
    shown = {shlex.split(line, comments=True)[1] for line in commands("gemlet")}
    assert set(VERBS) <= shown


def test_the_tree_is_the_real_one() -> None:
    (tree,) = blocks(README, "tree")
    parents: list[tuple[int, Path]] = [(-1, ROOT)]
    shown = set()
    for line in tree.splitlines():
        entry = re.match(r"(?P<indent> *)(?P<name>\S+)", line)
        if entry is None:
            continue
        indent = len(entry["indent"])
        while parents[-1][0] >= indent:
            parents.pop()
        path = parents[-1][1] / entry["name"]
        assert path.exists(), f"README's tree: {line.strip()}"
        assert path.is_dir() == entry["name"].endswith("/"), f"README's tree: {line.strip()}"
        parents.append((indent, path))
        shown.add(path)
    folders = {path.parent for path in PACKAGE.glob("*/*.py")}
    assert folders <= shown, sorted(path.name for path in folders - shown)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


@pytest.fixture(scope="module")
def readme_tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "scripts/readme_tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_come_from_the_results(readme_tables: ModuleType) -> None:
    for path in readme_tables.documents(ROOT):
        text = path.read_text()
        assert readme_tables.fill(text, ROOT / "benchmarks/results") == text, path.name


def test_a_table_is_written_from_the_newest_result(readme_tables: ModuleType, tmp_path: Path) -> None:
    machine = {"processor": "X", "physical_cores": 2, "instruction_set": "avx2"}
    for day, speed in (("01", 5.0), ("02", 1234.5)):
        rows = [{"what": "decode", "tok/s": {"median": speed, "low": 4.0, "high": 4.0}, "ratio": 0.51234}]
        result = {"date": f"2026-01-{day}T10:00", "commit": "0123456789abc", "machine": machine, "rows": rows}
        (tmp_path / f"speed-202601{day}.json").write_text(json.dumps(result))
    filled = readme_tables.fill("a\n<!-- table: speed -->\nold\n<!-- end -->\nb\n", tmp_path)
    assert filled == (
        "a\n<!-- table: speed -->\n"
        "| what | tok/s | ratio |\n| --- | --- | --- |\n| decode | 1234 | 0.512 |\n\n"
        "Measured 2026-01-02 on X, 2 cores, avx2, commit 012345678: "
        "`benchmarks/results/speed-20260102.json`.\n"
        "<!-- end -->\nb\n"
    )
    assert readme_tables.fill(filled, tmp_path) == filled
