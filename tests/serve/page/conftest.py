"""Chromium, a page in it, and the stand-in server behind the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.serve.page.standin import StandIn
from tests.serve.page.visit import Visit


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium. One for each file: while it lives, no other test of its thread may use asyncio."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("chromium is not installed")
    # No name is resolved: what tries to leave this machine fails, and is seen as a request all the same.
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def standin() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.close()


@pytest.fixture
def visit(browser: Any, standin: StandIn) -> Iterator[Callable[..., Visit]]:
    """Opens the page in a fresh profile; at the end, nothing may have gone wrong in it unseen."""
    visits: list[Visit] = []

    def open_page(url: str = standin.url, **options: Any) -> Visit:
        visits.append(Visit(browser, url, **options))
        return visits[-1]

    yield open_page
    for one in visits:
        one.close()


@pytest.fixture
def it(visit: Callable[..., Visit]) -> Visit:
    """The page, opened at the size of a laptop."""
    return visit()
