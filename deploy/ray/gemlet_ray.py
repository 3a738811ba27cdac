"""gemlet behind Ray Serve: the server of `gemlet serve` in several replicas, on one machine or on many.

    serve run gemlet_ray:app model=gemma-3-1b-it replicas=2 threads=4

README.md beside this file says how to run it, and what differs from `gemlet serve`.
"""

import os
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve


class Arguments(BaseModel):
    """What `serve run` takes as NAME=VALUE, and a Serve config file under `args`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="model reference; by default what gemlet's settings say")
    replicas: int = Field(2, ge=1, description="servers, each of which opens the model")
    threads: int = Field(4, ge=1, description="compute threads of each, which Ray keeps as many CPUs for")
    parallel: int = Field(16, ge=1, description="answers that each computes together")
    waiting: int = Field(64, ge=0, description="further requests that each is given to keep in line")
    context: int | None = Field(None, ge=1, description="positions that a request may take")
    deadline: float | None = Field(None, gt=0, description="seconds that a request may take")
    hosts: str = Field("", description="names the servers may be called by besides this machine's: a,b")
    grace: float = Field(30.0, gt=0, description="seconds that running answers have when a replica ends")


def app(arguments: Arguments) -> serve.Application:
    """The application that Ray Serve runs."""
    deployment = serve.deployment(
        name="gemlet",
        num_replicas=arguments.replicas,
        ray_actor_options={"num_cpus": arguments.threads},
        max_ongoing_requests=arguments.parallel + arguments.waiting,
        graceful_shutdown_timeout_s=arguments.grace,
    )
    return deployment(serve.ingress(builder(arguments.model_dump()))()).bind()


def builder(given: dict[str, Any]) -> Callable[[], Any]:
    """What each replica calls, in its own process, for its server. Plain values, so that it can be sent."""

    def build() -> Any:
        from gemlet import load
        from gemlet.serve.app import make_app
        from gemlet.serve.guard import Rules

        keys = tuple(key for key in [os.environ.get("GEMLET_API_KEY", "").strip()] if key)
        names = [name.strip() for name in given["hosts"].split(",") if name.strip()]
        model = load(
            given["model"], threads=given["threads"], context=given["context"], parallel=given["parallel"]
        )
        rules = Rules(keys, (*Rules.hosts, *names), deadline=given["deadline"])
        return make_app([model], rules, log=lambda line: print(line, flush=True))

    return build
