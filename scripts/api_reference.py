"""Writes docs/reference/api.md from the routes of the server and the schemas of their requests.

Usage: api_reference.py [--check]     --check writes nothing and fails where the file differs
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generated import write_or_check

from gemlet.serve.app import make_routes
from gemlet.serve.metrics import Metrics
from gemlet.serve.registry import Registry
from gemlet.serve.schema import NO_EFFECT, REFUSED

TARGET = Path(__file__).resolve().parent.parent / "docs/reference/api.md"
HEAD = """# Server API

Written by `scripts/api_reference.py` from the schemas that requests are checked with; `GET /openapi.json` is
the same for programs. How to start the server and who may call it: [serve](../how-to/serve.md).

A field is **enforced**; has **no effect** here, for the reason given, so that a program written for a hosted
model need not change; or is **refused**: a request that sets it is an error 400 that names it. A field that
is in no table is an error 400 too: nothing is ignored. null is the same as leaving a field out. A body is
JSON in UTF-8 with `Content-Type: application/json`, no key twice, no NaN, at most 128 levels deep.

Errors are `{"error": {"message", "type", "param", "code"}}`, under `/api/` `{"error": "message"}`: 400 what
cannot be done, 401 a wrong key, 404 no such route or model, 405 the wrong method, 413 too large, 421 a host
name that the server is not called by, 429 a full queue (with `Retry-After`), 499 in the log for a client that
went away, 500 a defect, 503 a model that was closed.
"""

Schema = dict[str, Any]


def main() -> int:
    return write_or_check(__doc__, TARGET, reference(), "scripts/api_reference.py")


def reference() -> str:
    """The whole file."""
    # Only listed: no route is called, so there need not be a model.
    document = make_routes(Registry.__new__(Registry), Metrics(tuple)).openapi()
    schemas = document["components"]["schemas"]
    lines, nested = [HEAD], list[str]()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += [f"## {method.upper()} {path.replace(':path', '')}", ""]
            lines += route(operation, schemas, nested)
    lines += ["## Objects in requests", ""]
    for name in nested:  # grows while it is read
        lines += [f"### {name}", "", schemas[name].get("description", ""), ""]
        lines += table(schemas[name], nested)
    return "\n".join(lines).rstrip("\n") + "\n"


def route(operation: Schema, schemas: Schema, nested: list[str]) -> Iterator[str]:
    """What a route takes and gives."""
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        yield from table(schemas[target(body)], nested)
    response = operation["responses"]["200"]
    content = response["content"]
    if "application/json" not in content:
        yield from [f"Answer: {response['description']}: `{next(iter(content))}`.", ""]
        return
    answer = schemas[target(content["application/json"]["schema"])]
    fields = ", ".join(f"`{name}`" for name in answer["properties"])
    yield f"Answer: {answer['description'].rstrip('.').lower()}: {fields}."
    others = [kind for kind in content if kind != "application/json"]
    if others:
        yield f"With `stream`: `{others[0]}`."
    yield ""


def table(schema: Schema, nested: list[str]) -> Iterator[str]:
    """The fields of an object."""
    required = schema.get("required", ())
    yield from ["| field | type | | what it does |", "| --- | --- | --- | --- |"]
    for name, field in schema["properties"].items():
        said = field["description"]
        kind = type_of(field, nested)
        status = status_of(field)
        for prefix in (NO_EFFECT, REFUSED):
            said = said.removeprefix(prefix)
        shown = f"`{name}`" + (" (required)" if name in required else "")
        cells = [shown, kind, status, said[:1].upper() + said[1:]]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def status_of(field: Schema) -> str:
    """Whether a field is enforced, without effect, or refused."""
    said = field["description"]
    if said.startswith((NO_EFFECT, REFUSED)):
        return "no effect" if said.startswith(NO_EFFECT) else "refused"
    values = [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]
    taken = [one for one in values if one.get("const") is not False and one.get("maxItems") != 0]
    return "enforced" if taken else "refused"


def type_of(field: Schema, nested: list[str]) -> str:
    """The type in words."""
    if "$ref" in field:
        name = target(field)
        if name not in nested:
            nested.append(name)
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in field:
            given = [one for one in field[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(type_of(one, nested) for one in given))
    if "const" in field:
        return f"`{field['const'] if field['const'] else json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" if value else '`""`' for value in field["enum"])
    kind = field.get("type", "any")
    if kind == "array":
        inner = type_of(field.get("items", {}), nested)
        return f"list of {inner}" if field.get("maxItems") != 0 else "empty list"
    return {"null": "null", "object": "object"}.get(kind, kind) + limits(field)


def limits(field: Schema) -> str:
    """The range of a number."""
    low, high = field.get("minimum"), field.get("maximum")
    if low is None or abs(low) >= 2**63:
        return ""
    return f" {low:g} to {high:g}" if high is not None else f" from {low:g}"


def target(reference: Schema) -> str:
    """The name that a reference leads to."""
    return str(reference["$ref"]).rsplit("/", 1)[1]


if __name__ == "__main__":
    sys.exit(main())
