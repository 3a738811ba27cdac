"""What is asked of the server: settings, models, schemas; and what is said when it refuses."""

from __future__ import annotations

import json
import re

from tests.serve.page.standin import CutOff, Fault, StandIn
from tests.serve.page.visit import Visit

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def test_settings_are_sent_and_stay_with_their_chat(it: Visit, standin: StandIn) -> None:
    panel = it.open_settings()
    panel.get_by_label("System prompt").fill("Answer in one word.")
    panel.get_by_label("Temperature").fill("0.3")
    panel.get_by_label("Top k").fill("40")
    panel.get_by_label("Seed").fill("7")
    panel.get_by_label("Longest answer").fill("64")
    it.reload()
    it.ask("Colour?")
    request = standin.requests[-1]
    assert request["messages"][0] == {"role": "system", "content": "Answer in one word."}
    sent = {name: request.get(name) for name in ("temperature", "top_k", "seed", "max_tokens", "top_p")}
    assert sent == {"temperature": 0.3, "top_k": 40, "seed": 7, "max_tokens": 64, "top_p": None}
    it.button("New chat").click()
    it.ask("Plain")
    assert standin.requests[-1].keys() & {"temperature", "top_k", "seed"} == set()
    assert standin.requests[-1]["messages"] == [{"role": "user", "content": "Plain"}]
    it.listed.filter(has_text="Colour?").click()
    it.says(it.questions, "Colour?")
    it.ask("Again")
    assert standin.requests[-1]["temperature"] == 0.3
    it.expect(panel.get_by_label("Seed")).to_have_value("7")
    it.button("Use for new chats").click()
    it.button("New chat").click()
    it.ask("With defaults")
    assert standin.requests[-1]["seed"] == 7


def test_a_wrong_setting_is_not_sent(it: Visit, standin: StandIn) -> None:
    panel = it.open_settings()
    panel.get_by_label("Temperature").fill("9")
    it.box.fill("Hot")
    it.box.press("Enter")
    it.expect(panel.get_by_label("Temperature")).to_be_focused()
    it.expect(panel.get_by_label("Temperature")).to_have_attribute("aria-invalid", "true")
    it.expect(it.box).to_have_value("Hot")
    assert not standin.requests
    it.button("Reset").click()
    it.box.press("Enter")
    it.ended()
    assert standin.requests


def test_an_answer_by_a_schema(it: Visit, standin: StandIn) -> None:
    panel = it.open_settings()
    panel.get_by_label("Answers are").select_option("JSON by a schema")
    schema = panel.get_by_label("JSON schema")
    schema.fill('{"type": ')
    it.expect(panel.get_by_role("status")).to_contain_text("Not JSON yet")
    it.box.fill("Where?")
    it.box.press("Enter")
    it.expect(schema).to_be_focused()
    assert not standin.requests
    schema.fill(json.dumps(SCHEMA))
    it.expect(it.page.locator("#schema-problem")).to_be_empty()
    standin.say('{"city":', '"Bern"}')
    it.box.press("Enter")
    it.ended()
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert standin.requests[-1]["response_format"] == wanted
    it.says(it.prose.locator("pre code"), '{\n  "city": "Bern"\n}')
    panel.get_by_label("Answers are").select_option("Any JSON object")
    it.ask("Again?")
    assert standin.requests[-1]["response_format"] == {"type": "json_object"}
    assert standin.requests[-1]["messages"][1]["content"] == '{"city":"Bern"}'


def test_models_and_adapters(it: Visit, standin: StandIn) -> None:
    model = it.page.get_by_label("Model")
    it.expect(model.locator("option")).to_have_text(["gemma-3-270m", "base-1b"])
    it.page.get_by_label("Adapter").select_option("+ poet")
    it.ask("A verse")
    assert standin.requests[-1]["model"] == "gemma-3-270m+poet"
    model.select_option("base-1b")
    it.expect(it.page.get_by_label("Adapter")).to_be_hidden()
    it.ask("And now")
    assert standin.requests[-1]["model"] == "base-1b"
    it.reload()
    it.expect(model).to_have_value("base-1b")
    it.button("New chat").click()
    it.expect(model).to_have_value("base-1b")
    it.expect(it.page.locator("#base-note")).to_be_visible()


def test_a_model_that_is_gone_is_named(it: Visit, standin: StandIn) -> None:
    it.ask("Hello")
    standin.models = standin.models[2:]
    it.reload()
    model = it.page.get_by_label("Model")
    it.expect(model).to_have_value("gemma-3-270m")
    it.says(model.locator("option:checked"), "gemma-3-270m (not served)")
    it.button("New chat").click()
    it.ask("Hello")
    assert standin.requests[-1]["model"] == "base-1b"


def test_a_refusal_says_why_and_is_tried_again(it: Visit, standin: StandIn) -> None:
    message = "The prompt has 3,000 tokens; the context holds 2,048."
    standin.refuse(400, message, param="messages", code="context_length_exceeded")
    it.ask("Too long")
    alert = it.page.get_by_role("alert")
    it.expect(alert).to_contain_text(message)
    it.expect(alert).to_contain_text("Parameter: messages · Code: context_length_exceeded")
    it.button("Try again").click()
    it.says(it.prose, "You asked: Too long")
    it.ended()
    it.expect(it.answers).to_have_count(1)
    it.expect(it.answers.last.locator(".branches")).to_be_empty()
    it.expect(alert).to_have_count(0)


def test_a_busy_server_says_when(it: Visit, standin: StandIn) -> None:
    standin.refuse(429, "Too many requests wait.", headers={"Retry-After": "4"})
    it.ask("Now")
    it.expect(it.page.get_by_role("alert")).to_contain_text("Too many requests wait.")
    it.expect(it.page.get_by_role("alert")).to_contain_text("The server asks to wait 4 s.")


def test_an_error_in_the_middle_keeps_the_text(it: Visit, standin: StandIn) -> None:
    standin.say("The beginning", Fault("The model was unloaded."))
    it.ask("Tell me")
    it.says(it.prose, "The beginning")
    it.expect(it.page.get_by_role("alert")).to_contain_text("The answer broke off. The model was unloaded.")
    it.button("Try again").click()
    it.says(it.prose, "You asked: Tell me")
    it.ended()
    it.expect(it.answers.last.locator(".branches")).to_contain_text("2/2")


def test_a_cut_connection_is_no_complete_answer(it: Visit, standin: StandIn) -> None:
    standin.say("The beginning", CutOff())
    it.ask("Tell me")
    it.says(it.prose, "The beginning")
    it.expect(it.page.get_by_role("alert")).to_contain_text("closed before the answer was complete")
    it.reload()
    it.expect(it.page.get_by_role("alert")).to_contain_text("closed before the answer was complete")


def test_a_server_that_is_gone(it: Visit, standin: StandIn) -> None:
    it.ask("Still there?")
    it.context.set_offline(True)
    it.ask("And now?")
    it.expect(it.page.get_by_role("alert")).to_contain_text("cannot be reached")
    it.context.set_offline(False)
    it.button("Try again").click()
    it.says(it.prose, "You asked: And now?")


def test_the_limit_is_named(it: Visit, standin: StandIn) -> None:
    standin.say("Cut", finish="length")
    it.ask("Long")
    it.expect(it.answers.last).to_contain_text("Cut off")


def test_a_key_is_asked_for_and_kept_for_the_tab(it: Visit, standin: StandIn) -> None:
    standin.key = "sesame"
    it.box.fill("Open")
    it.box.press("Enter")
    dialog = it.page.get_by_role("dialog", name="This server asks for a key")
    dialog.get_by_label("API key").fill("wrong")
    dialog.get_by_label("API key").press("Enter")
    it.expect(dialog).to_contain_text("The key was not accepted.")
    dialog.get_by_label("API key").fill("sesame")
    dialog.get_by_role("button", name="Use this key").click()
    it.says(it.prose, "You asked: Open")
    it.ended()
    it.reload()
    it.ask("Again")
    it.says(it.prose, "You asked: Again")
    stored = "JSON.stringify([localStorage, document.cookie, location.href])"
    assert "sesame" not in it.page.evaluate(stored)
    other = it.context.new_page()
    it.watch(other)
    other.goto(it.url)
    it.expect(other.get_by_role("dialog")).to_be_visible()


def test_no_key_no_answer(it: Visit, standin: StandIn) -> None:
    standin.key = "sesame"
    it.box.fill("Open")
    it.box.press("Enter")
    it.page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    it.expect(it.page.get_by_role("alert")).to_contain_text("Wrong key.")
    assert not standin.requests


def test_earlier_empty_answers_are_not_sent(it: Visit, standin: StandIn) -> None:
    standin.say()
    it.ask("First")
    it.expect(it.answers.last).to_contain_text("answered with nothing")
    it.ask("Second")
    assert [message["content"] for message in standin.requests[-1]["messages"]] == ["First", "Second"]


def test_the_gauge_warns_before_the_context_is_full(it: Visit, standin: StandIn) -> None:
    standin.models = [{**standin.models[0], "context_length": 8}]
    it.reload()
    it.ask("one two three four five")
    gauge = it.page.get_by_role("meter", name="Context")
    it.expect(gauge).to_have_attribute("aria-valuetext", "7 of 8 tokens of context used")
    it.expect(gauge).to_have_class(re.compile("full"))
