"""The chat format against the reference template and the true tokenizer, over generated conversations."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gemlet.errors import ConversationError
from gemlet.text.template import render
from tests.parity.true_tokenizer import chat_template, ours, reference

Messages = list[dict[str, Any]]

ATOMS = [
    "Hello", "the", " sea", "é", "日本", "😩", "def f(x):\n    return x", "\n", "\n\n", "\t", "  ", " ",
    "\r\n", "\0", "\x85", "\xa0", "\u2028", "\u3000", "\x1c", "\ufeff", "{{ x }}", "{% if %}", "<table>",
    "</b>", "[multimodal]", "user", "model", "12", ".", "", "\u200b", "<", ">",
]  # fmt: skip


def text(rng: random.Random) -> str:
    return "".join(rng.choice(ATOMS) for _ in range(rng.choice([0, 1, 2, 5, 12])))


def content(rng: random.Random) -> Any:
    if rng.random() < 0.75:
        return text(rng)
    return [{"type": "text", "text": text(rng)} for _ in range(rng.randint(0, 3))]


def alternating(rng: random.Random) -> Messages:
    """A conversation as people have it: a system message perhaps, then user and assistant in turn."""
    messages: Messages = [{"role": "system", "content": text(rng)}] if rng.random() < 0.4 else []
    for k in range(rng.randint(1, 6)):
        messages.append({"role": ("user", "assistant")[k % 2], "content": content(rng)})
    return messages


def disorderly(rng: random.Random) -> Messages:
    """Roles at random, so that the template often refuses, and content that it treats in its own way."""
    roles = ["system", "developer", "user", "user", "assistant", "assistant", "model", "tool"]
    messages: Messages = [
        {"role": rng.choice(roles), "content": content(rng)} for _ in range(rng.randint(1, 4))
    ]
    if rng.random() < 0.5:
        for k, message in enumerate(messages):
            message["role"] = "user" if k % 2 == 0 else rng.choice(roles)
        if rng.random() < 0.5:
            messages.insert(0, {"role": "system", "content": content(rng)})
    if rng.random() < 0.1:
        rng.choice(messages)["content"] = None
    return messages


@pytest.fixture(scope="module")
def template(true_tokenizer: Path) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(chat_template(true_tokenizer))


def expected_ids(
    template: jinja2.Template, folder: Path, messages: Messages, prompt: bool
) -> list[int] | None:
    """What the reference makes of messages, None where it refuses them."""
    try:
        text = template.render(messages=messages, bos_token="<bos>", add_generation_prompt=prompt)
    except (jinja2.TemplateError, TypeError):
        return None
    ids: list[int] = reference(folder).encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize(
    ("generate", "rounds", "at_least"), [(alternating, 3000, 3000), (disorderly, 3000, 800)]
)
def test_strict_ids_are_the_references(
    template: jinja2.Template,
    true_tokenizer: Path,
    generate: Callable[[random.Random], Messages],
    rounds: int,
    at_least: int,
) -> None:
    rng = random.Random(5)
    tokenizer = ours(true_tokenizer)
    accepted = refused = 0
    for _ in range(rounds):
        messages, prompt = generate(rng), rng.random() < 0.5
        expected = expected_ids(template, true_tokenizer, messages, prompt)
        if expected is None:
            refused += 1
            with pytest.raises(ConversationError):
                render(messages, tokenizer, strict=True)
            continue
        accepted += 1
        rendered = render(messages, tokenizer, add_generation_prompt=prompt, strict=True)
        assert list(rendered.ids) == expected, messages
    assert accepted >= at_least
    assert refused == rounds - accepted and (generate is alternating or refused >= 300)


def test_lenient_ids_are_the_references_where_nothing_is_changed(
    template: jinja2.Template, true_tokenizer: Path
) -> None:
    rng = random.Random(6)
    unchanged = 0
    for generate in (alternating, disorderly):
        for _ in range(1000):
            messages = generate(rng)
            try:
                rendered = render(messages, ours(true_tokenizer))
            except ConversationError:
                assert expected_ids(template, true_tokenizer, messages, True) is None
                continue
            assert generate is disorderly or rendered.normalisations == ()
            if rendered.normalisations == ():
                unchanged += 1
                # The name "model" for the assistant is the reference's own.
                assert list(rendered.ids) == expected_ids(template, true_tokenizer, messages, True)
    assert unchanged > 1000


def test_the_mask_covers_what_the_reference_calls_the_models(
    template: jinja2.Template, true_tokenizer: Path
) -> None:
    rng = random.Random(7)
    tokenizer = ours(true_tokenizer)
    for _ in range(300):
        messages = alternating(rng)
        rendered = render(messages, tokenizer, add_generation_prompt=False)
        covered: list[bool] = []
        for k, message in enumerate(messages):
            if message["role"] == "system":
                continue
            whole = expected_ids(template, true_tokenizer, messages[: k + 1], False)
            opened = None
            if message["role"] == "assistant":
                opened = expected_ids(template, true_tokenizer, messages[:k], True)
            assert whole is not None
            covered += [False] * ((len(opened) if opened else len(whole)) - len(covered))
            covered += [True] * (len(whole) - 1 - len(covered)) + [False] * (opened is not None)
        assert list(rendered.loss_mask) == covered


def test_the_golden_conversation(true_tokenizer: Path) -> None:
    rendered = render([{"role": "user", "content": "Test"}], ours(true_tokenizer), strict=True)
    assert rendered.ids == (2, 105, 2364, 107, 3694, 106, 107, 105, 4368, 107)
