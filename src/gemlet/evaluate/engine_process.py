"""An engine in a process of its own, so that engines that are compared share neither memory nor threads.

The parent sends a line of JSON, {"call": name, "arguments": [...]}, and gets one back: {"result": ...} or
{"error": {"message", "hint"}}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from gemlet.errors import GemletError, InvalidRequestError
from gemlet.types import as_dict

CALLS = (
    *("prefill", "decode", "streams", "answer", "memory", "kv_price", "prompt_work", "step_work"),
    *("fill", "time_steps", "hold", "open_tokenizer"),
)
"""What a parent may ask for."""

SECONDS_TO_END = 5.0


class EngineProcess:
    """A context manager: the engine's calls, each run in the child. `seconds_to_load` is from its start.

    `weights`: the type that they are computed in, for an engine that has a choice.
    """

    def __init__(
        self, name: str, model: Path, threads: int, context: int, weights: str | None = None
    ) -> None:
        arguments = [name, str(model), str(threads), str(context), *([] if weights is None else [weights])]
        self.name = name
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.details: str = self._receive()
        except BaseException:
            self.close()
            raise
        self.seconds_to_load = time.perf_counter() - began

    def call(self, name: str, *arguments: Any) -> Any:
        """The result of a call, as JSON carries it. GemletError with what the engine said, or if it died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        return self._receive()

    def close(self) -> None:
        """End the child: it is asked, and then made to."""
        assert self._process.stdin is not None and self._process.stdout is not None
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                stream.close()
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # also Ctrl-C: what it computes is of no use any more
            self._process.kill()
        self.close()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        answer = json.loads(line)
        if "error" not in answer:
            return answer["result"]
        told = answer["error"]
        raise GemletError(told["message"], hint=told["hint"])

    def _death(self) -> GemletError:
        self._process.wait()
        code = self._process.returncode
        return GemletError(f"the process of {self.name} ended without an answer (code {code})")


def serve(arguments: list[str], requests: IO[str], answers: IO[str]) -> None:
    """The child: load the engine, say its details, and answer until the requests end."""
    from gemlet.evaluate.engines import ENGINES

    def answer(document: dict[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    name, model, threads, context, *weights = arguments
    try:
        engine = ENGINES[name](Path(model), int(threads), int(context), *weights)
        answer({"result": engine.details})
        for line in requests:
            request = json.loads(line)
            if request["call"] not in CALLS:
                raise InvalidRequestError(f"no call {request['call']!r}")
            result = getattr(engine, request["call"])(*request["arguments"])
            answer({"result": as_dict(result)})
        engine.close()
    except BrokenPipeError:
        pass  # the parent has gone away
    except Exception as error:
        if not isinstance(error, GemletError):
            error = GemletError(f"{name}: {type(error).__name__}: {error}")
        answer({"error": {"message": error.message, "hint": error.hint}})


def main() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches every process of the terminal: the parent acts
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    serve(sys.argv[1:], sys.stdin, answers)
    answers.close()
    os._exit(0)  # nothing is left to do, and a library's own end may hang


if __name__ == "__main__":
    main()
