"""A local Ray with two replicas of the server: both answer, as the library does. `make ray-test` runs it.

It is no part of the suite: Ray is large, and takes its time to start.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PORT = 8765
URL = f"http://127.0.0.1:{PORT}"
MESSAGES = [{"role": "user", "content": "The area of a wide room"}]
OPTIONS = {"max_tokens": 8, "seed": 3, "temperature": 0.8}
REQUESTS = 40


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write_model(path)
        os.environ |= {
            "XDG_CACHE_HOME": folder,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "deploy/ray"), str(ROOT)]),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # else it writes a token into the home folder
        }
        start(path, folder)
        try:
            check(path)
        finally:
            import ray

            ray.shutdown()
    print("two replicas answered as the library does")
    return 0


def write_model(path: Path) -> None:
    """A model of random weights that talks."""
    from tests.synthetic import CHAT_TEMPLATE, tiny_config, write_tiny_gguf

    write_tiny_gguf(path, tiny_config(), np.random.default_rng(0), "Q8_0", chat_template=CHAT_TEMPLATE)


def start(path: Path, folder: str) -> None:
    """Ray on this machine, with two replicas that are ready."""
    import ray
    from ray import serve

    sys.path.insert(0, str(ROOT / "deploy/ray"))
    from gemlet_ray import Arguments, app

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(app(Arguments(model=str(path), replicas=2, threads=1, deadline=30)), route_prefix="/")


def check(path: Path) -> None:
    """Many requests at a time: equal answers, from both."""
    import gemlet

    with gemlet.load(path, threads=1) as model:
        expected = model.chat(MESSAGES, **OPTIONS).text
    body = {"model": "tiny", "messages": MESSAGES} | OPTIONS
    with httpx.Client(base_url=URL, timeout=60) as http, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/chat/completions", json=body), range(REQUESTS)))
        assert [answer.status_code for answer in answers] == [200] * REQUESTS, answers
        texts = {answer.json()["choices"][0]["message"]["content"] for answer in answers}
        assert texts == {expected}, (texts, expected)
        assert len(processes(http)) == 2
        check_stream(http, body, expected)
        refused = http.post("/v1/chat/completions", json=body | {"colour": "red"})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "colour"
        elsewhere = http.get("/v1/models", headers={"host": "attacker.example"})
        assert elsewhere.status_code == 421


def processes(http: httpx.Client) -> set[int]:
    """The replicas, by their processes."""
    found: set[int] = set()
    end = time.monotonic() + 30
    while len(found) < 2 and time.monotonic() < end:
        found.add(http.get("/status").json()["pid"])
    return found


def check_stream(http: httpx.Client, body: dict[str, object], expected: str) -> None:
    """A stream comes in pieces through Ray's proxy."""
    pieces = []
    with http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line.removeprefix("data: "))["choices"]
                pieces += [choice["delta"].get("content") or "" for choice in choices]
    assert "".join(pieces) == expected and sum(map(bool, pieces)) > 1, pieces


if __name__ == "__main__":
    sys.exit(main())
