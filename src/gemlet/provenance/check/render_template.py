"""Renders an untrusted chat template in a process of its own, which is limited and may be killed.

Run as a script: JSON {"template", "bos", "cases": [[message, …], …]} comes in, [[text, null] or
[null, error]] goes out. It stands alone: nothing of gemlet is imported.
"""

from __future__ import annotations

import json
import sys
from typing import Any

SECONDS = 10
MEMORY = 1 << 30


def main() -> None:
    """Read the request, render each case, print the results."""
    _limit()
    import jinja2.sandbox

    request = json.load(sys.stdin)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def refuse(message: object) -> None:
        raise jinja2.TemplateError(str(message))

    results: list[tuple[str | None, str | None]] = []
    for messages in request["cases"]:
        values: dict[str, Any] = {
            "messages": messages,
            "bos_token": request["bos"],
            "eos_token": "<eos>",
            "add_generation_prompt": True,
            "raise_exception": refuse,
            "tools": None,
        }
        try:
            results.append((environment.from_string(request["template"]).render(values), None))
        except Exception as error:
            results.append((None, f"{type(error).__name__}: {str(error)[:200]}"))
    json.dump(results, sys.stdout)


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on Windows: there the caller's patience is the limit
        return
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    main()
