"""Asking, streaming, stopping, branching, and finding all of it again."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

from tests.serve.page.standin import Prefill, StandIn, UntilGone
from tests.serve.page.visit import Visit


def test_an_answer_streams_as_markdown(it: Visit, standin: StandIn) -> None:
    rest = threading.Event()
    standin.say("# Sky\n\nIt is **bl", rest, "ue**.\n\n```python\ndef f():\n    return 1\n```\n", cached=2)
    it.box.fill("Why is the sky blue?")
    it.box.press("Enter")
    it.expect(it.prose.locator("h1")).to_have_text("Sky")
    it.expect(it.answers.last).to_have_attribute("aria-busy", "true")
    it.expect(it.button("Stop")).to_be_visible()
    rest.set()
    it.ended()
    it.says(it.prose.locator("strong"), "blue")
    it.says(it.prose.locator("pre .hljs-keyword").first, "def")
    it.says(it.prose.locator("pre code"), "def f():\n    return 1")
    facts = it.answers.last.locator(".facts")
    it.says(facts, re.compile(r"gemma-3-270m · 2 tokens · 42 tokens/s · first after 0\.21 s · 2 of 5 prompt"))
    it.says(it.page.locator("#gauge-text"), "7 / 2,048")
    request = standin.requests[-1]
    assert request["messages"] == [{"role": "user", "content": "Why is the sky blue?"}]
    assert request["model"] == "gemma-3-270m" and request["stream"] is True
    assert not request.keys() & {"temperature", "seed", "max_tokens", "response_format"}


def test_what_is_said_to_a_screen_reader(it: Visit, standin: StandIn) -> None:
    standin.say("Forty-two.")
    it.ask("How many?")
    it.says(it.page.locator("#announcer"), "Answer: Forty-two.")
    it.expect(it.page.get_by_role("article", name="You")).to_have_count(1)
    it.expect(it.page.get_by_role("article", name="Answer of gemma-3-270m")).to_have_count(1)


def test_code_and_answers_are_copied(it: Visit, standin: StandIn) -> None:
    it.context.grant_permissions(["clipboard-read", "clipboard-write"])
    standin.say("Look:\n\n```js\nlet a = '<b>';\n```")
    it.ask("Code, please")
    it.button("Copy code").click()
    it.says(it.page.locator("#announcer"), "Code copied")
    assert it.page.evaluate("navigator.clipboard.readText()") == "let a = '<b>';"
    it.answers.last.get_by_role("button", name="Copy", exact=True).click()
    it.says(it.page.locator("#announcer"), "Copied")
    assert it.page.evaluate("navigator.clipboard.readText()") == "Look:\n\n```js\nlet a = '<b>';\n```"


def test_a_long_prompt_shows_how_far_it_is_read(it: Visit, standin: StandIn) -> None:
    further, done = threading.Event(), threading.Event()
    standin.say(Prefill(512, 2048), further, Prefill(1024, 2048), done, "Read.")
    it.box.fill("A long one")
    it.box.press("Enter")
    bar = it.page.get_by_role("progressbar", name="Reading the prompt")
    it.expect(bar).to_have_js_property("value", 512)
    further.set()
    it.expect(bar).to_have_js_property("value", 1024)
    it.expect(it.answers.last).to_contain_text("1,024 of 2,048 tokens")
    done.set()
    it.ended()
    it.says(it.prose, "Read.")


def test_stop_ends_the_request_and_keeps_the_text(it: Visit, standin: StandIn) -> None:
    standin.say("One two", UntilGone())
    it.box.fill("Count")
    it.box.press("Enter")
    it.says(it.prose, "One two")
    it.button("Stop").click()
    it.ended()
    assert standin.client_left.wait(20)
    it.expect(it.answers.last).to_contain_text("Stopped.")
    it.says(it.prose, "One two")
    it.ask("Go on")
    roles = [(message["role"], message["content"]) for message in standin.requests[-1]["messages"]]
    assert roles == [("user", "Count"), ("assistant", "One two"), ("user", "Go on")]


def test_another_answer_stands_beside_the_first(it: Visit, standin: StandIn) -> None:
    standin.say("First.")
    standin.say("Second.")
    it.ask("Say something")
    it.button("Another answer").click()
    it.says(it.prose, "Second.")
    it.ended()
    assert standin.requests[0] == standin.requests[1]
    it.expect(it.answers.last.locator(".branches")).to_contain_text("2/2")
    it.button("Previous answer").click()
    it.says(it.prose, "First.")
    it.expect(it.answers.last.locator(".branches")).to_contain_text("1/2")
    it.reload()
    it.says(it.prose, "First.")


def test_an_edited_question_branches(it: Visit, standin: StandIn) -> None:
    for text in ("Paris.", "It has many parks.", "Rome."):
        standin.say(text)
    it.ask("Capital of France?")
    it.ask("Tell me more")
    it.questions.first.hover()
    it.button("Edit").first.click()
    edit = it.page.get_by_role("textbox", name="Edit the message")
    it.expect(edit).to_have_value("Capital of France?")
    edit.fill("Capital of Italy?")
    it.button("Ask again").click()
    it.says(it.prose, "Rome.")
    it.ended()
    assert standin.requests[-1]["messages"] == [{"role": "user", "content": "Capital of Italy?"}]
    it.expect(it.questions).to_have_count(1)
    it.button("Previous version").click()
    it.expect(it.questions).to_have_text(["Capital of France?", "Tell me more"])
    it.says(it.prose, "It has many parks.")
    it.button("Next version").click()
    it.says(it.prose, "Rome.")


def test_a_conversation_is_found_after_a_reload(it: Visit, standin: StandIn) -> None:
    standin.say("Cats purr.")
    it.ask("About cats")
    it.button("New chat").click()
    standin.say("Dogs bark.")
    it.ask("About dogs")
    it.reload()
    it.says(it.prose, "Dogs bark.")
    it.expect(it.listed).to_have_text(["About dogs", "About cats"])
    it.listed.filter(has_text="About cats").click()
    it.says(it.prose, "Cats purr.")
    it.page.go_back()
    it.says(it.prose, "Dogs bark.")


def test_an_answer_in_the_middle_survives_a_reload(it: Visit, standin: StandIn) -> None:
    held = threading.Event()
    standin.say("Half of the ", held)
    it.box.fill("Tell me")
    it.box.press("Enter")
    it.says(it.prose, "Half of the")
    it.reload()
    held.set()
    it.says(it.prose, "Half of the")
    standin.say("All of it.")
    # Which of the two depends on whether the browser cut the connection before it took the page away.
    it.page.get_by_role("button", name=re.compile("^(Answer again|Try again)$")).click()
    it.says(it.prose, "All of it.")
    it.ended()
    it.expect(it.answers.last.locator(".branches")).to_contain_text("2/2")


def test_unsent_text_survives_a_reload(it: Visit, standin: StandIn) -> None:
    it.ask("First question")
    it.box.fill("not yet sent")
    it.questions.first.hover()
    it.button("Edit").click()
    it.page.get_by_role("textbox", name="Edit the message").fill("half edited")
    it.reload()
    it.expect(it.box).to_have_value("not yet sent")
    edit = it.page.get_by_role("textbox", name="Edit the message")
    it.expect(edit).to_have_value("half edited")
    edit.press("Escape")
    it.button("New chat").click()
    it.expect(it.box).to_have_value("")
    it.box.fill("for a new one")
    it.listed.first.click()
    it.expect(it.box).to_have_value("not yet sent")
    it.reload()
    it.expect(it.page.get_by_role("textbox", name="Edit the message")).to_have_count(0)
    it.button("New chat").click()
    it.expect(it.box).to_have_value("for a new one")


def test_search_looks_into_the_messages(it: Visit, standin: StandIn) -> None:
    standin.say("The quick brown Fox jumps.")
    it.ask("An animal")
    it.ask("And another")
    it.button("New chat").click()
    it.ask("Something else")
    search = it.page.get_by_role("searchbox", name="Search the conversations")
    search.fill("brown fox")
    it.expect(it.listed).to_have_count(1)
    it.says(it.listed.locator("mark"), "brown Fox")
    it.listed.click()
    it.expect(it.answers.first).to_contain_text("Fox")
    it.expect(it.answers.first).to_have_class(re.compile("found"))
    search.fill("no such thing")
    it.expect(it.page.locator("#conversations")).to_have_text("Nothing found.")
    search.press("Escape")
    it.expect(it.listed).to_have_count(2)


def test_rename_delete_and_undo(it: Visit, standin: StandIn) -> None:
    it.ask("A title nobody likes")
    it.menu("A title nobody likes", "Rename")
    name = it.page.get_by_role("textbox", name="Title")
    name.fill("Better")
    name.press("Enter")
    it.says(it.listed, "Better")
    it.says(it.page.locator("#title"), "Better")
    it.menu("Better", "Delete")
    it.expect(it.listed).to_have_count(0)
    it.expect(it.questions).to_have_count(0)
    it.button("Undo").click()
    it.listed.click()
    it.says(it.questions, "A title nobody likes")
    it.menu("Better", "Delete")
    it.expect(it.listed).to_have_count(0)
    it.reload()
    it.expect(it.listed).to_have_count(0)


def test_export_to_markdown(it: Visit, standin: StandIn) -> None:
    standin.say("A *short* answer.")
    it.ask("A question?")
    name, text = it.downloaded(lambda: it.menu("A question?", "Export as Markdown"))
    assert name == "a-question.md"
    lines = text.splitlines()
    assert lines[0] == "# A question?" and text.endswith("A *short* answer.\n")
    assert lines[4:] == ["## You", "", "A question?", "", "## gemma-3-270m", "", "A *short* answer."]


def test_export_to_json_and_back(
    it: Visit, standin: StandIn, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    standin.say("One.")
    standin.say("Two.")
    it.ask("Number?")
    it.button("Another answer").click()
    it.says(it.prose, "Two.")
    it.ended()
    _, text = it.downloaded(it.button("Export all").click)
    (conversation,) = json.loads(text)["conversations"]
    assert sorted(message["content"] for message in conversation["messages"]) == ["Number?", "One.", "Two."]
    file = tmp_path / "chats.json"
    file.write_text(text, encoding="utf-8")
    other = visit()
    other.page.locator("#import-file").set_input_files(file)
    other.says(other.listed, "Number?")
    other.listed.click()
    other.says(other.prose, "Two.")
    other.button("Previous answer").click()
    other.says(other.prose, "One.")
    other.page.locator("#import-file").set_input_files(file)
    other.expect(other.page.locator("#toast")).to_contain_text("0 conversations")
    other.expect(other.listed).to_have_count(1)


def test_messages_of_an_api_are_imported(it: Visit, tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
    ]
    file = tmp_path / "messages.json"
    file.write_text(json.dumps({"messages": messages}))
    it.page.locator("#import-file").set_input_files(file)
    it.listed.click()
    it.says(it.prose, "Hi.")
    it.ask("More")
    file.write_text(json.dumps({"messages": [{"role": "tool", "content": "x"}]}))
    it.page.locator("#import-file").set_input_files(file)
    it.expect(it.page.locator("#toast")).to_contain_text('role "tool"')
    it.expect(it.listed).to_have_count(1)


def test_two_tabs_see_the_same(it: Visit, standin: StandIn) -> None:
    other = it.context.new_page()
    it.watch(other)
    other.goto(it.url)
    it.ask("From the first tab")
    listed = other.locator("#conversations .conversation a")
    it.says(listed, "From the first tab")
    listed.click()
    it.says(other.locator(".prose"), "You asked: From the first tab")
    it.ask("Once more")
    it.expect(other.locator(".message.user")).to_have_count(2)


def test_another_conversation_while_one_answers(it: Visit, standin: StandIn) -> None:
    rest = threading.Event()
    standin.say("Slow ", rest, "answer.")
    it.box.fill("Slow one")
    it.box.press("Enter")
    it.says(it.prose, "Slow")
    it.button("New chat").click()
    it.ask("Fast one")
    it.says(it.prose, "You asked: Fast one")
    it.expect(it.page.get_by_role("img", name="An answer is being written")).to_have_count(1)
    rest.set()
    it.expect(it.page.get_by_role("img", name="An answer is being written")).to_have_count(0)
    it.says(it.prose, "You asked: Fast one")
    it.listed.filter(has_text="Slow one").click()
    it.says(it.prose, "Slow answer.")
