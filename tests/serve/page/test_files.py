"""The page's files: what they ask for is beside them, and the libraries are what their packages held."""

from __future__ import annotations

import hashlib
import re

from tests.serve.page.standin import PAGE

OWN = [path for path in PAGE.rglob("*") if path.is_file() and "vendor" not in path.parts]
LINES = 400


def test_the_libraries_are_unchanged_and_licensed() -> None:
    vendor = PAGE / "vendor"
    listed = dict(line.split()[::-1] for line in (vendor / "SHA256SUMS").read_text().splitlines())
    found = {path.relative_to(vendor).as_posix(): path for path in vendor.rglob("*.js")}
    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
    readme = (vendor / "README.md").read_text()
    for licence in re.findall(r"LICENSE-\w+\.txt", readme):
        assert (vendor / licence).is_file()
    for version in (r"marked v(\S+)", r"DOMPurify (\S+)", r"Highlight\.js v(\S+)"):
        texts = [re.search(version, path.read_text()[:2000]) for path in found.values()]
        (own,) = {match[1] for match in texts if match}
        assert f"| {own} |" in readme


def test_every_address_in_the_page_is_its_own() -> None:
    """A namespace is a name and is not fetched; the filter's pattern has no host."""
    for path in OWN:
        for address in re.findall(r"https?://\w[^\s\"'`)]*", path.read_text()):
            assert address == "http://www.w3.org/2000/svg", f"{path.name}: {address}"


def test_what_the_page_asks_for_is_there() -> None:
    for path in OWN:
        text = path.read_text()
        asked = re.findall(r"from \"(\.[^\"]+)\"", text) if path.suffix == ".js" else []
        if path.suffix == ".html":
            asked = re.findall(r"(?:src|href)=\"([^\"#][^\"]*)\"", text)
            assert len(asked) >= 7
        for name in asked:
            assert (path.parent / name).is_file(), f"{path.name} asks for {name}"


def test_the_policy_allows_its_own_server_only() -> None:
    html = (PAGE / "index.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy[1].split(";")}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == ["'self'"]
    assert rules["img-src"] == ["'self'", "data:"]
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\bsrc=)", html)


def test_scripts_are_short() -> None:
    long = [path.name for path in OWN if path.suffix == ".js" and len(path.read_text().splitlines()) > LINES]
    assert not long


def test_icons_that_are_used_exist() -> None:
    html = (PAGE / "index.html").read_text()
    symbols = set(re.findall(r'<symbol id="icon-([\w-]+)"', html))
    used = set(re.findall(r'href="#icon-([\w-]+)"', html))
    for path in OWN:
        if path.suffix == ".js":
            used |= set(re.findall(r"\bicon(?:Button)?\(\"([\w-]+)\"", path.read_text()))
    assert used | {"theme-system", "theme-light", "theme-dark"} == symbols
