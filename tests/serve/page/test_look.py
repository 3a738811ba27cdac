"""Colours, a phone's width, and the keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.page.standin import StandIn, UntilGone
from tests.serve.page.visit import Visit

BACKGROUND = "getComputedStyle(document.documentElement).backgroundColor"
PHONE = {"viewport": {"width": 375, "height": 740}, "has_touch": True, "is_mobile": True}


def brightness(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((brightness(a), brightness(b)))
    return (high + 0.05) / (low + 0.05)


def test_colours_follow_the_system_and_the_switch(it: Visit) -> None:
    it.page.emulate_media(color_scheme="dark")
    it.expect(it.page.locator("html")).to_have_attribute("data-theme", "dark")
    assert brightness(it.page.evaluate(BACKGROUND)) < 0.05
    it.page.emulate_media(color_scheme="light")
    it.expect(it.page.locator("html")).to_have_attribute("data-theme", "light")
    assert brightness(it.page.evaluate(BACKGROUND)) > 0.8
    it.button("Colours: as the system").click()
    it.button("Colours: light").click()
    it.button("Colours: dark").wait_for()
    assert brightness(it.page.evaluate(BACKGROUND)) < 0.05
    it.reload()
    assert brightness(it.page.evaluate(BACKGROUND)) < 0.05


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(visit: Callable[..., Visit], standin: StandIn, scheme: str) -> None:
    """WCAG 2 AA: 4.5 to 1 for text."""
    it = visit(color_scheme=scheme)
    code = "# comment\nclass A(int):\n    x: str = 'text' + str(1)\n    @property\n    def f(self): pass"
    standin.say(f"A [link](https://a.example) and `code`\n\n> quoted\n\n```python\n{code}\n```")
    it.ask("Show")
    it.open_settings()
    pairs: list[list[str]] = it.page.evaluate(
        """() => {
            const behind = (element) => {
                for (; element; element = element.parentElement) {
                    const colour = getComputedStyle(element).backgroundColor;
                    if (!/, 0\\)$/.test(colour)) return colour;
                }
            };
            return [...document.querySelectorAll("body *")]
                .filter((element) => element.checkVisibility({opacityProperty: true}) && !element.disabled
                    && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
                .map((e) => [getComputedStyle(e).color, behind(e), e.textContent.slice(0, 40)]);
        }"""
    )
    assert len(pairs) > 40
    weak = [(text, round(contrast(a, b), 2)) for a, b, text in pairs if contrast(a, b) < 4.5]
    assert not weak


def overflow(page: Any) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def test_a_phone(visit: Callable[..., Visit], standin: StandIn) -> None:
    it = visit(**PHONE)
    standin.say(
        "A table:\n\n| a | b | c | d |\n|---|---|---|---|\n"
        + "| unbreakably | wide | cells | everywhere |\n\n```\n"
        + "x" * 200
        + "\n```\n\n"
        + "y" * 200
    )
    it.box.tap()
    it.box.fill("On a phone")
    it.button("Send").tap()
    it.ended()
    assert overflow(it.page) <= 0
    it.expect(it.page.locator("#sidebar")).to_be_hidden()
    it.button("Conversations").tap()
    it.expect(it.listed).to_have_text("On a phone")
    it.expect(it.page.locator("#main")).to_have_attribute("inert", "")
    it.button("New chat").tap()
    it.expect(it.page.locator("#sidebar")).to_be_hidden()
    it.expect(it.page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    it.button("Settings").tap()
    it.expect(it.page.get_by_label("System prompt")).to_be_visible()
    it.page.touchscreen.tap(10, 300)
    it.expect(it.page.locator("#settings")).to_be_hidden()
    assert overflow(it.page) <= 0
    for button in it.page.locator("button:visible").all():
        box = button.bounding_box()
        assert box and min(box["width"], box["height"]) >= 24  # WCAG 2.2 AA, target size


def test_all_of_it_by_keyboard(it: Visit, standin: StandIn) -> None:
    keys = it.page.keyboard
    it.expect(it.box).to_be_focused()
    standin.say("First answer.")
    standin.say("Second answer.")
    standin.say("Edited answer.")
    keys.type("One")
    keys.press("Shift+Enter")
    keys.type("two")
    keys.press("Enter")
    it.says(it.prose, "First answer.")
    it.ended()
    assert standin.requests[-1]["messages"][0]["content"] == "One\ntwo"
    keys.press("Escape")
    keys.press("r")
    it.says(it.prose, "Second answer.")
    it.ended()
    keys.press("[")
    it.says(it.prose, "First answer.")
    keys.press("]")
    it.says(it.prose, "Second answer.")
    keys.press("c")
    it.expect(it.box).to_be_focused()
    keys.press("ArrowUp")
    edit = it.page.get_by_role("textbox", name="Edit the message")
    it.expect(edit).to_be_focused()
    edit.fill("Three")
    keys.press("Enter")
    it.says(it.prose, "Edited answer.")
    it.ended()
    keys.press("k")
    keys.press("?")
    help_dialog = it.page.get_by_role("dialog", name="Keys")
    it.expect(help_dialog).to_be_visible()
    keys.press("Escape")
    it.expect(help_dialog).to_be_hidden()
    keys.press("n")
    it.expect(it.page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    keys.press("Control+k")
    keys.type("edited")
    keys.press("Enter")
    it.says(it.prose, "Edited answer.")
    keys.press("ArrowDown")
    keys.press("F2")
    keys.press("Control+a")
    keys.type("Renamed")
    keys.press("Enter")
    it.says(it.page.locator("#title"), "Renamed")


def test_escape_stops(it: Visit, standin: StandIn) -> None:
    standin.say("Go", UntilGone())
    it.box.fill("Run")
    it.box.press("Enter")
    it.says(it.prose, "Go")
    it.page.keyboard.press("Escape")
    it.ended()
    assert standin.client_left.wait(20)


def test_single_keys_can_be_switched_off(it: Visit) -> None:
    it.button("Keys").click()
    it.page.get_by_label("Keys without Ctrl").uncheck()
    it.button("Close").click()
    it.page.locator("#thread").focus()
    it.page.keyboard.press("s")
    it.expect(it.page.locator("#settings")).to_be_hidden()
    it.button("Keys").click()
    it.page.get_by_label("Keys without Ctrl").check()
    it.button("Close").click()
    it.page.locator("#thread").focus()
    it.page.keyboard.press("s")
    it.expect(it.page.locator("#settings")).to_be_visible()


def test_focus_can_be_seen(it: Visit) -> None:
    for _ in range(12):
        it.page.keyboard.press("Tab")
        # The composer shows it around the whole box.
        seen = "e => getComputedStyle(e.closest('#composer') ?? e).outlineStyle !== 'none'"
        focused = it.page.locator(":focus")
        if focused.count():  # none: the focus is in the browser's own controls
            assert focused.evaluate(seen)


def test_every_control_has_a_name(it: Visit) -> None:
    it.ask("Hello")
    it.open_settings()
    it.menu("Hello", "Rename")
    nameless = it.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, a")]
            .filter((e) => !e.getAttribute("aria-label") && !e.textContent.trim() && !e.labels?.length)
            .filter((e) => e.checkVisibility()).map((e) => e.id)"""
    )
    assert nameless == []


def test_less_motion_where_it_is_asked_for(visit: Callable[..., Visit], standin: StandIn) -> None:
    for motion, moving in (("reduce", False), ("no-preference", True)):
        it = visit(reduced_motion=motion)
        standin.say(UntilGone())
        it.box.fill("Wait")
        it.box.press("Enter")
        it.page.locator(".dots").wait_for()
        assert (it.page.evaluate("document.getAnimations().length") > 0) is moving
        it.button("Stop").click()
        it.ended()


def test_the_view_follows_the_answer_until_it_is_moved(it: Visit, standin: StandIn) -> None:
    standin.say("\n\n".join(f"Paragraph {number}" for number in range(80)), UntilGone())
    it.box.fill("A long answer")
    it.box.press("Enter")
    it.expect(it.prose).to_contain_text("Paragraph 79")
    it.expect(it.page.get_by_text("Paragraph 79")).to_be_in_viewport()
    it.page.locator("#thread").evaluate("thread => thread.scrollTo(0, 0)")
    it.button("To the end").click()
    it.expect(it.page.get_by_text("Paragraph 79")).to_be_in_viewport()
    it.expect(it.button("To the end")).to_be_hidden()
    it.button("Stop").click()
    it.ended()
