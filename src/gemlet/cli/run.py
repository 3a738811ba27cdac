"""`gemlet run`: one prompt in, text or JSON out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from gemlet.cli.answer import Collected, Output, output_for
from gemlet.cli.flags import add_model_flags, add_sampling_flags, sampling_options
from gemlet.cli.opening import OpenModel, open_model
from gemlet.cli.prompt import PromptSources, read_prompt
from gemlet.cli.shape import add_shape_flags, shape_options
from gemlet.cli.stats import stats_line
from gemlet.cli.terminal import note
from gemlet.errors import InvalidRequestError
from gemlet.types import TokenEvent

DESCRIPTION = "Answer one prompt. The answer goes to standard output, everything else to standard error."
EXAMPLES = (
    'gemlet run "Why is the sky blue?"',
    "gemlet run -f notes.txt -p 'Summarise this in three lines.'",
    "git diff | gemlet run 'Write a commit message for this change.'",
    "gemlet run --raw -n 20 -t 0 'The capital of France is'",
    "gemlet run --json --logprobs 3 -n 1 'Yes or no?' | jq .logprobs",
    "gemlet run --schema person.json -f letter.txt -p 'Who wrote this?' | jq .name",
    "gemlet run --regex '[1-5]' -f review.txt -p 'How many stars does this review give?'",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet run`."""
    group = parser.add_argument_group("prompt")
    group.add_argument("text", nargs="?", metavar="PROMPT", help="the prompt; - reads standard input")
    group.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt, as a flag; - reads standard input")
    group.add_argument(
        "-f",
        "--file",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="text files put before the prompt",
    )
    group.add_argument("-s", "--system", metavar="TEXT", help="instructions for the whole conversation")
    group.add_argument("--raw", action="store_true", help="continue the text as it is: no chat format")
    add_model_flags(parser)
    add_sampling_flags(parser)
    add_shape_flags(parser)
    group = parser.add_argument_group("answer")
    group.add_argument(
        "--n", type=int, default=1, metavar="CHOICES", help="how many answers to give (default: 1)"
    )
    group.add_argument("--ignore-eos", action="store_true", help="go on after the model's stop token")
    group.add_argument(
        "--json", action="store_true", help="print one JSON document with everything that is known"
    )
    group.add_argument("--stream", action="store_true", help="with --json: one JSON line for each token")
    group.add_argument(
        "--logprobs", type=int, default=0, metavar="K", help="with --json: the K likeliest tokens"
    )
    group.add_argument(
        "--stats", action="store_true", help="a line with load time and speeds, on standard error"
    )


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code. After Ctrl-C, KeyboardInterrupt leaves once all is printed."""
    _refuse_wrong_combinations(parsed)
    shape = shape_options(parsed)
    texts = tuple(text for text in (parsed.prompt, parsed.text) if text is not None)
    stdin = getattr(sys.stdin, "buffer", None)
    prompt = read_prompt(PromptSources(texts, tuple(parsed.file), parsed.raw), stdin)
    with open_model(parsed) as opened:
        output = output_for(parsed, sys.stdout)
        collected = Collected(parsed.n)
        complete = _pump(_events(parsed, opened, prompt, shape), output, collected)
        output.finish(collected)
        _say_what_happened(parsed, opened, collected)
        if not complete:
            raise KeyboardInterrupt
    return 0


def _refuse_wrong_combinations(parsed: argparse.Namespace) -> None:
    if parsed.raw and parsed.system is not None:
        raise InvalidRequestError("--raw has no chat format, so --system has no place in it")
    if not parsed.json and (parsed.stream or parsed.logprobs):
        raise InvalidRequestError(f"{'--stream' if parsed.stream else '--logprobs'} needs --json")
    if parsed.n < 1:
        raise InvalidRequestError(f"--n must be at least 1, not {parsed.n}")


def _events(
    parsed: argparse.Namespace, opened: OpenModel, prompt: str, shape: dict[str, Any]
) -> Iterator[TokenEvent]:
    options: dict[str, Any] = sampling_options(parsed) | shape
    options |= {"n": parsed.n, "logprobs": parsed.logprobs, "ignore_eos": parsed.ignore_eos, "stream": True}
    if parsed.raw:
        events: Iterator[TokenEvent] = opened.model.generate(prompt, **options)
        return events
    system = [] if parsed.system is None else [{"role": "system", "content": parsed.system}]
    events = opened.model.chat([*system, {"role": "user", "content": prompt}], **options)
    return events


def _pump(events: Any, output: Output, collected: Collected) -> bool:
    """Move events to the output; False when Ctrl-C ended them early."""
    with closing(events):
        try:
            for event in events:
                collected.add(event)
                output.event(event)
        except KeyboardInterrupt:
            return False
    return True


def _say_what_happened(parsed: argparse.Namespace, opened: OpenModel, collected: Collected) -> None:
    completions = collected.completions()
    if not parsed.quiet:
        for line in dict.fromkeys(line for done in completions for line in done.normalisations):
            note(line)
    if parsed.stats and completions:
        print(stats_line(opened.load_s, completions), file=sys.stderr, flush=True)
