"""`gemlet ps`: the servers that run on this machine, and what they hold."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from gemlet.cli.terminal import print_json, printable

DESCRIPTION = (
    "List the servers that you run on this machine: models, whether they are loaded, requests, memory."
)
EXAMPLES = ("gemlet ps", "gemlet ps --json | jq '.servers[].address'")

PATIENCE = 2.0
"""Seconds in which a server has to answer."""

MOST = 1 << 20
"""Bytes of an answer."""

ALL_ADDRESSES = {"//0.0.0.0:": "//127.0.0.1:", "//[::]:": "//[::1]:"}
"""Who listens everywhere is asked here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `gemlet ps`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def execute(parsed: argparse.Namespace) -> int:
    """Run the verb and return its exit code."""
    servers = running()
    if parsed.json:
        print_json({"servers": servers})
    elif not servers:
        print("no server runs")
    else:
        print(printable("\n".join(table(servers, time.time()))))
    return 0


def running() -> list[dict[str, Any]]:
    """Every server with its state; `answers` is False for one that does not, of which nothing else is known.

    The file of a server that is no more is removed.
    """
    from gemlet.store.servers import server_files

    found = []
    for file in server_files():
        known = {
            "address": file.address,
            "pid": file.pid,
            "since": file.since,
            "references": list(file.references),
        }
        try:
            state = _state(file.address)
        except ConnectionRefusedError:
            file.remove()
        except (OSError, ValueError):
            found.append(known | {"answers": False, "models": []})
        else:
            if state.get("pid") == file.pid:
                found.append(known | {"answers": True} | state)
            else:  # another one has that address now
                file.remove()
    return found


def table(servers: list[dict[str, Any]], now: float) -> list[str]:
    """A line for each model of each server, under a heading."""
    rows = [("MODEL", "STATE", "RUNNING", "WAITING", "MEMORY", "SINCE", "PID", "ADDRESS")]
    for server in servers:
        place = (_age(now - server["since"]), str(server["pid"]), server["address"])
        if not server["answers"]:
            rows.append(("?", "no answer", "?", "?", "?", *place))
        memory = f"{server.get('resident_bytes', 0) / 2**20:.0f} MiB"
        for model in server["models"]:
            state = "loaded" if model["loaded"] else "closed"
            rows.append((model["id"], state, str(model["running"]), str(model["waiting"]), memory, *place))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _state(address: str) -> dict[str, Any]:
    """What a server says of itself. OSError or ValueError when it says nothing that can be used."""
    import ssl
    import urllib.error
    import urllib.request

    for everywhere, here in ALL_ADDRESSES.items():
        address = address.replace(everywhere, here)
    # It is this machine, whatever the certificate says, and nothing is sent. No proxy is asked.
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unverified)
    )
    try:
        with opener.open(f"{address}/status", timeout=PATIENCE) as answer:
            state = json.loads(answer.read(MOST))
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else error from None
    if not isinstance(state, dict):
        raise ValueError("no state")
    return state


def _age(seconds: float) -> str:
    """Two largest units."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
