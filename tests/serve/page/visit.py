"""What a person does with the page, in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

TIMEOUT_MS = 20_000


class Visit:
    """One page in a profile of its own. `close` raises what went wrong in it."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        from playwright.sync_api import expect

        expect.set_options(timeout=TIMEOUT_MS)
        self.expect = expect
        self.url = url
        context = {"viewport": {"width": 1200, "height": 800}, "locale": "en-GB", **options}
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(TIMEOUT_MS)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self._faults: list[str] = []
        self.watch(self.page)
        self.go(url)

    def watch(self, page: Any) -> None:
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self._faults.append(str(error)))
        page.on("console", self._console)
        page.on("dialog", self._dialog)

    def _console(self, message: Any) -> None:
        # A request that was refused is logged by the browser, whatever the page makes of it.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self._faults.append(message.text)

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def forgive(self, *parts: str) -> None:
        """Faults that the test brought about itself."""
        self._faults = [fault for fault in self._faults if not any(part in fault for part in parts)]

    def close(self) -> None:
        self.context.close()
        assert not self._faults, "\n".join(self._faults)
        assert not self.dialogs, "\n".join(self.dialogs)
        assert not self.foreign_requests()

    def foreign_requests(self) -> list[str]:
        """Requests that would have left the page's own server."""
        return [url for url in self.requests if not url.startswith((self.url, "data:", f"blob:{self.url}"))]

    def go(self, url: str) -> None:
        self.page.goto(url)
        self.ready()

    def reload(self) -> None:
        self.page.reload()
        self.ready()

    def ready(self) -> None:
        self.page.locator("html[data-ready]").wait_for(state="attached")

    @property
    def box(self) -> Any:
        return self.page.get_by_role("textbox", name="Message", exact=True)

    @property
    def questions(self) -> Any:
        return self.page.locator(".message.user .body")

    @property
    def answers(self) -> Any:
        return self.page.locator(".message.assistant")

    @property
    def prose(self) -> Any:
        """The text of the last answer."""
        return self.answers.last.locator(".prose")

    @property
    def listed(self) -> Any:
        """The conversations in the list."""
        return self.page.locator("#conversations .conversation a")

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def ask(self, text: str) -> None:
        """Send a question and wait until the answer has ended."""
        self.box.fill(text)
        self.button("Send").click()
        self.ended()

    def ended(self) -> None:
        self.expect(self.page.locator("#stop")).to_be_hidden()
        self.expect(self.page.locator(".message.streaming")).to_have_count(0)

    def says(self, locator: Any, text: str | re.Pattern[str]) -> None:
        self.expect(locator).to_have_text(text)

    def open_settings(self) -> Any:
        self.button("Settings").click()
        return self.page.get_by_role("complementary", name="Settings of this chat")

    def menu(self, title: str, action: str) -> None:
        """Choose an action of a conversation in the list."""
        self.page.locator(".conversation", has_text=title).first.hover()
        self.button(f"Actions for {title}").click()
        self.page.locator("#menu").get_by_role("button", name=action, exact=True).click()

    def downloaded(self, click: Any) -> tuple[str, str]:
        """Name and text of the file that a click saves."""
        with self.page.expect_download() as waiting:
            click()
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_text(encoding="utf-8")
