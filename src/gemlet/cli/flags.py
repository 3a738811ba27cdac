"""Flags that verbs share, and how they become arguments of the library. Defaults stay in the library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gemlet.errors import InvalidRequestError


@dataclass(frozen=True)
class Setting:
    """One argument of `Model.generate` and `Model.chat`: its name there, its flags, how its text is read."""

    name: str
    flags: tuple[str, ...]
    metavar: str
    parse: Callable[[str], Any]
    help: str


SETTINGS = (
    Setting(
        "max_tokens", ("-n", "--max-tokens"), "N", int, "stop after N tokens (default: the context's end)"
    ),
    Setting(
        "temperature", ("-t", "--temperature"), "T", float, "randomness; 0 always takes the likeliest token"
    ),
    Setting("top_k", ("--top-k",), "K", int, "choose among the K likeliest tokens; 0 is off"),
    Setting("top_p", ("--top-p",), "P", float, "choose among the likeliest tokens that hold probability P"),
    Setting("min_p", ("--min-p",), "P", float, "leave out tokens below P times the likeliest one"),
    Setting("seed", ("--seed",), "N", int, "makes the answer repeatable (default: a new one each time)"),
    Setting(
        "repetition_penalty", ("--repetition-penalty",), "X", float, "above 1 discourages tokens seen before"
    ),
    Setting(
        "presence_penalty", ("--presence-penalty",), "X", float, "subtracted from tokens already generated"
    ),
    Setting("frequency_penalty", ("--frequency-penalty",), "X", float, "the same, times how often they were"),
)
"""The single-valued settings, the same in flags and in the chat command /set."""


def add_model_flags(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Which model, or models, and how they are loaded."""
    group = parser.add_argument_group("model")
    text = "model name, path or org/repo (default: gemlet config)"
    if several:
        group.add_argument("-m", "--model", metavar="REF", action="append", help=text + "; repeatable")
    else:
        group.add_argument("-m", "--model", metavar="REF", help=text)
    add_loading_flags(group)


def add_loading_flags(group: argparse._ArgumentGroup) -> None:
    """How a model is loaded."""
    group.add_argument(
        "-c", "--context", type=int, metavar="TOKENS", help="context length (default: the model's)"
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="threads (default: the cores this process may use)"
    )
    group.add_argument(
        "--weights", metavar="TYPE", help="auto, stored, bf16, int8 or int4 (default: gemlet config)"
    )
    group.add_argument(
        "-v", "--verbose", action="store_true", help="also say how many threads compute, and why"
    )
    drafts = group.add_mutually_exclusive_group()
    drafts.add_argument(
        "--draft", metavar="REF", help="a smaller model with the same tokenizer whose guesses are checked"
    )
    drafts.add_argument(
        "--no-draft",
        dest="draft",
        action="store_false",
        default=None,
        help="check no guesses: the same answer, at another speed",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="no notices on standard error, errors only")


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen and when to stop."""
    group = parser.add_argument_group("sampling (defaults come from the model's files)")
    for setting in SETTINGS:
        group.add_argument(
            *setting.flags, dest=setting.name, type=setting.parse, metavar=setting.metavar, help=setting.help
        )
    group.add_argument(
        "--logit-bias",
        action="append",
        default=[],
        metavar="ID=V",
        help="add V to a token's logit; repeatable",
    )
    group.add_argument(
        "--stop", action="append", default=[], metavar="S", help="stop at this text; repeatable"
    )


def sampling_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments for the library; only what was asked for, so that its own defaults hold.

    `max_tokens` is always there: on the command line None, the context's end, is the default.
    """
    options = {setting.name: getattr(parsed, setting.name) for setting in SETTINGS}
    chosen = {name: value for name, value in options.items() if value is not None or name == "max_tokens"}
    if parsed.stop:
        chosen["stop"] = tuple(parsed.stop)
    if parsed.logit_bias:
        chosen["logit_bias"] = dict(_bias(text) for text in parsed.logit_bias)
    return chosen


def check_sampling_flags(parsed: argparse.Namespace) -> None:
    """InvalidRequestError for a value that no model takes, before one is loaded."""
    from gemlet.infer.sample import SAMPLING_NAMES, merge_sampling
    from gemlet.types import Sampling

    options = sampling_options(parsed)
    if parsed.max_tokens is not None and parsed.max_tokens < 1:
        raise InvalidRequestError(f"max_tokens must be at least 1, not {parsed.max_tokens}")
    known_ids = sys.maxsize  # whose end only the model says
    merge_sampling(Sampling(), {k: v for k, v in options.items() if k in SAMPLING_NAMES}, known_ids)


def _bias(text: str) -> tuple[int, float]:
    token, _, value = text.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise InvalidRequestError(f"--logit-bias takes ID=VALUE, such as 106=-5; not '{text}'") from None


def named_once(parsed: argparse.Namespace) -> str | None:
    """The model of a verb that takes it as MODEL or with --model; None for the default."""
    reference: str | None = parsed.reference
    model: str | None = parsed.model
    if reference is not None and model is not None:
        raise InvalidRequestError("the model is named twice, as MODEL and with --model")
    return model if reference is None else reference
