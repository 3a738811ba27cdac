"""Takes the pictures in docs/img: python -m tests.serve.page.screenshots [FOLDER]"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.repo.sources import ROOT
from tests.serve.page.standin import Prefill, StandIn
from tests.serve.page.visit import Visit

CODE = """\
Files with the same bytes have the same hash, so it is enough to **group them by hash**. Most files differ \
in size already, and those need not be read:

```python
import hashlib
from collections import defaultdict
from pathlib import Path


def duplicates(folder: str) -> list[list[Path]]:
    \"\"\"Groups of files with the same bytes.\"\"\"
    by_size = defaultdict(list)
    for path in Path(folder).rglob("*"):
        if path.is_file():
            by_size[path.stat().st_size].append(path)

    by_hash = defaultdict(list)
    for paths in by_size.values():
        if len(paths) > 1:  # a size of its own: no duplicate
            for path in paths:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                by_hash[digest].append(path)
    return [paths for paths in by_hash.values() if len(paths) > 1]
```

`read_bytes` holds a whole file in memory; for very large ones, read it in pieces.
"""
TABLE = """\
Each of them uses what the one before left over:

| Evening | Dinner | Shared with the next |
|---|---|---|
| Monday | Roast vegetables with chickpeas | half of the chickpeas |
| Tuesday | Chickpea and spinach curry | rice, spinach |
| Wednesday | Spinach rice with a fried egg | |

Buy *one* bag of spinach and *two* tins of chickpeas.
"""
QUESTIONS = (
    ("Why is the sky blue?", "Short waves scatter more."),
    ("Plan three simple dinners for two people that share their ingredients, as a table.", TABLE),
    ("Write a Python function that finds duplicate files in a folder.", CODE),
)


def pieces(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")]


def fill(it: Visit, standin: StandIn) -> None:
    for question, answer in QUESTIONS:
        it.page.locator("#new-chat").evaluate("button => button.click()")
        standin.say(*pieces(answer), cached=3)
        it.ask(question)


def light(it: Visit) -> None:
    it.listed.filter(has_text="dinners").click()
    it.box.fill("Something quicker for Monday?")


def dark(it: Visit) -> None:
    panel = it.open_settings()
    panel.get_by_label("System prompt").fill("You are a careful programmer. Explain briefly.")
    panel.get_by_label("Temperature").fill("0.4")
    it.page.locator("#thread").evaluate("thread => thread.scrollTo(0, 0)")
    it.page.locator("#prompt").focus()


def phone(it: Visit) -> None:
    it.page.locator("#thread").evaluate("thread => thread.scrollTo(0, 0)")


PICTURES: dict[str, tuple[dict[str, Any], Callable[[Visit], None]]] = {
    "chat-light": ({"color_scheme": "light", "viewport": {"width": 1120, "height": 720}}, light),
    "chat-dark": ({"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}}, dark),
    "chat-phone": (
        {"color_scheme": "light", "viewport": {"width": 390, "height": 760}, "has_touch": True},
        phone,
    ),
}


def waiting(it: Visit, standin: StandIn, path: Path) -> None:
    """A long prompt that is being read; for looking at, not for the documents."""
    held = threading.Event()
    standin.say(Prefill(640, 2048), held)
    it.box.fill("What is in this text?")
    it.button("Send").click()
    it.page.locator("progress").wait_for()
    it.page.screenshot(path=path)
    held.set()


def main(folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"))
        for name, (options, pose) in PICTURES.items():
            standin = StandIn()
            it = Visit(browser, standin.url, reduced_motion="reduce", **options)
            fill(it, standin)
            pose(it)
            it.page.screenshot(path=folder / f"{name}.png")
            if folder != ROOT / "docs/img":
                waiting(it, standin, folder / f"{name}-waiting.png")
            it.close()
            standin.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/img")
