"""The flags that hold an answer to a shape, and how they become arguments of the library."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gemlet.cli.prompt import decode_text
from gemlet.errors import InvalidRequestError


def add_shape_flags(parser: argparse.ArgumentParser) -> None:
    """What the answer must look like."""
    group = parser.add_argument_group(
        "shape of the answer (one of them; needs the structured extra)"
    ).add_mutually_exclusive_group()
    group.add_argument(
        "--schema",
        metavar="FILE|JSON",
        help="JSON that satisfies this JSON schema: a file, or the schema itself where it begins with {",
    )
    group.add_argument(
        "--regex",
        metavar="PATTERN",
        help="text that the regular expression matches from its start to its end",
    )
    group.add_argument("--grammar", metavar="FILE", help="text of the Lark grammar in this file")


def shape_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments for the library; none without a flag.

    Raises InvalidRequestError and UnsupportedParameterError for what the library would refuse, as far as it
    is seen before a model is loaded; OSError for a file that cannot be read.
    """
    options: dict[str, Any] = {}
    if parsed.schema is not None:
        schema = {"name": "schema", "schema": _schema(parsed.schema)}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    if parsed.regex is not None:
        options["regex"] = parsed.regex
    if parsed.grammar is not None:
        options["grammar"] = decode_text(Path(parsed.grammar).read_bytes(), parsed.grammar)
    if options:
        from gemlet.infer.response_format import shape_of

        shape_of(options.get("response_format"), options.get("regex"), options.get("grammar"))
    return options


def _schema(given: str) -> Any:
    inline = given.lstrip().startswith("{")
    text = given if inline else decode_text(Path(given).read_bytes(), given)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = "the schema" if inline else given
        raise InvalidRequestError(f"--schema: {where} is not JSON: {error}") from None
