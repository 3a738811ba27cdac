"""Bodies read without guessing: what JSON leaves open, and readers differ in, is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

MAX_DEPTH = 128
"""Lists and objects inside one another: twice what any schema may have."""

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Where half of a surrogate pair may be."""


class StrictRoute(APIRoute):
    """A route whose JSON body is read by `parse`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse(await self.body())


def parse(body: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises json.JSONDecodeError also for what Python would take: a key that comes twice, NaN and infinities,
    numbers beyond a float's range, half a surrogate pair, more than MAX_DEPTH levels.
    """
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_object, parse_constant=_no_number, parse_float=_number
        )
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise _problem(f"it is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _problem(f"it has more than {MAX_DEPTH} levels") from None
    except ValueError:
        raise _problem("a whole number has too many digits") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if _HALF.search(body):
        _check_text(value)
    return value


def _problem(message: str) -> json.JSONDecodeError:
    return json.JSONDecodeError(message, "", 0)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _problem(f"the key {twice!r:.80} comes twice")
    return value


def _no_number(text: str) -> NoReturn:
    raise _problem(f"{text} is not a number")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _problem(f"the number {text:.40} is too large")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise _problem(f"it has more than {MAX_DEPTH} levels")


def _check_text(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _problem("it holds half of a surrogate pair, which is not text") from None
