"""The routes, and errors as the API's clients read them."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from gemlet.errors import GemletError
from gemlet.infer.chat import Model
from gemlet.serve import chat, completions, ollama, operations, responses
from gemlet.serve.body import StrictRoute
from gemlet.serve.document import (
    ChatCompletion,
    Embeddings,
    Error,
    ModelList,
    ModelObject,
    Rendered,
    ResponseObject,
    Text,
    TextCompletion,
    Tokens,
    answers,
    errors,
)
from gemlet.serve.errors import ApiError, as_api_error, place_named
from gemlet.serve.events import ClientGone, EventStream, NamedEventStream, while_connected
from gemlet.serve.guard import Guard, Rules
from gemlet.serve.handle import Handle
from gemlet.serve.metrics import Metrics
from gemlet.serve.registry import Registry
from gemlet.serve.responses_schema import TAGS, ResponsesRequest
from gemlet.serve.running import CLIENT_GONE
from gemlet.serve.schema import (
    REFUSAL,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TemplateRequest,
    TokenizeRequest,
)
from gemlet.serve.traffic.record import Recording
from gemlet.serve.traffic.records import Exchange
from gemlet.version import __version__

PAGE = Path(__file__).with_name("page")

PAGE_HEADERS = {"Content-Security-Policy": "frame-ancestors 'none'", "X-Content-Type-Options": "nosniff"}
"""The page's own policy is in its head; these are the parts that only an answer can say."""


def make_app(
    models: Iterable[Model | Handle],
    rules: Rules | None = None,
    log: Callable[[str], None] = lambda line: None,
    record: Callable[[Exchange], None] | None = None,
    unload_after: float | None = None,
) -> Guard:
    """The application that serves models. It does not close them at its end. `record` is given the traffic.

    Models that can be opened again are closed when nobody has used them for `unload_after` seconds.
    """
    registry = Registry(models)
    metrics = operations.metrics_of(registry)
    routes = make_routes(registry, metrics, unload_after)
    inner = routes if record is None else Recording(routes, record)
    return Guard(inner, rules or Rules(), log, metrics.answered)


def make_routes(
    registry: Registry, metrics: Metrics | None = None, unload_after: float | None = None
) -> FastAPI:
    """What the guard lets requests pass to."""
    life = operations.unloading(registry, unload_after)
    app = FastAPI(
        title="gemlet",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        responses=errors(Error),
        lifespan=life,
    )
    app.router.route_class = StrictRoute
    _add_error_handlers(app)
    _add_generation(app, registry)
    _add_reading(app, registry)
    _add_models(app, registry)
    ollama.add_routes(app, registry)
    operations.add_routes(app, registry, metrics or operations.metrics_of(registry))
    _add_page(app)
    return app


def _add_generation(app: FastAPI, registry: Registry) -> None:
    @app.post("/v1/chat/completions", responses=answers(ChatCompletion, stream=EventStream.media_type))
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        served = await registry.open(body.model)
        answer = chat.start(served, body)
        if not body.stream:
            return await while_connected(request, chat.collect(served, body, answer))
        await while_connected(request, answer.start())  # what is refused is refused with its status
        return EventStream(chat.stream(served, body, answer), lambda: answer.progress)

    @app.post("/v1/completions", responses=answers(TextCompletion, stream=EventStream.media_type))
    async def text_completions(body: CompletionRequest, request: Request) -> Any:
        served = await registry.open(body.model)
        if not body.stream:
            return await while_connected(request, completions.collect(served, body))
        answer = completions.start(served, body)
        await while_connected(request, answer.start())
        return EventStream(completions.stream(served, body, answer), lambda: answer.progress)

    @app.post("/v1/responses", responses=answers(ResponseObject, stream=EventStream.media_type))
    async def create_response(body: ResponsesRequest, request: Request) -> Any:
        served = await registry.open(body.model)
        answer = responses.start(served, body)
        if not body.stream:
            return await while_connected(request, responses.collect(served, body, answer))
        await while_connected(request, answer.start())
        return NamedEventStream(responses.stream(served, body, answer), lambda: answer.progress)


def _ids_of(model: Model, inputs: Iterable[str | list[int]]) -> list[list[int]]:
    return [model.tokenize(one) if isinstance(one, str) else one for one in inputs]


def _add_reading(app: FastAPI, registry: Registry) -> None:
    @app.post("/v1/embeddings", responses=answers(Embeddings))
    async def embeddings(body: EmbeddingRequest, request: Request) -> Any:
        served = await registry.open(body.model)
        ids = await asyncio.to_thread(_ids_of, served.model, body.input)
        vectors = await while_connected(request, served.model.aembed(ids, adapter=served.adapter))
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
                if body.encoding_format == "base64"
                else vector.tolist(),
            }
            for index, vector in enumerate(vectors)
        ]
        tokens = sum(map(len, ids))
        return {
            "object": "list",
            "data": data,
            "model": served.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    # Not coroutines: long texts take a while, and the framework gives each a thread.
    @app.post("/tokenize", responses=answers(Tokens))
    def tokenize(body: TokenizeRequest) -> Any:
        model = registry.find(body.model).model
        return {"tokens": model.tokenize(body.content, bos=bool(body.add_special))}

    @app.post("/detokenize", responses=answers(Text))
    def detokenize(body: DetokenizeRequest) -> Any:
        return {"content": registry.find(body.model).model.detokenize(body.tokens)}

    @app.post("/apply-template", responses=answers(Rendered))
    def apply_template(body: TemplateRequest) -> Any:
        model = registry.find(body.model).model
        ids = model.render(body.messages, tools=body.tools)
        # Without the BOS: who sends the text on has one put before it.
        return {"prompt": model.tokenizer.shown(ids[1:]), "tokens": ids}


def _add_models(app: FastAPI, registry: Registry) -> None:
    @app.get("/v1/models", responses=answers(ModelList))
    async def models() -> Any:
        return {"object": "list", "data": [served.describe() for served in registry.all()]}

    @app.get("/v1/models/{name:path}", responses=answers(ModelObject))
    async def model(name: str) -> Any:
        return registry.named(name).describe()


class PageFiles(StaticFiles):
    """Files of the chat page."""

    def file_response(self, *args: Any, **more: Any) -> Response:
        answer = super().file_response(*args, **more)
        answer.headers.update(PAGE_HEADERS)
        return answer


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    @app.get("/icon.svg", include_in_schema=False)
    async def icon() -> Response:
        return FileResponse(PAGE / "icon.svg", headers=PAGE_HEADERS)

    for folder in ("css", "js", "vendor"):
        app.mount(f"/{folder}", PageFiles(directory=PAGE / folder))


Handler = Callable[[Request, Any], Awaitable[Response]]


def _add_error_handlers(app: FastAPI) -> None:
    def answer(request: Request, told: ApiError) -> Response:
        return JSONResponse(told.for_path(request.url.path), told.status, told.headers)

    async def known(request: Request, error: Exception) -> Response:
        return answer(request, as_api_error(error))

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, _as_api_error(error))

    async def by_status(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        message = f"{request.method} {path}: {error.detail}"
        if error.status_code == 404 and (meant := _route_meant(path)):
            message += f"; it is {meant} here, so the base URL must end in /v1, once"
        return answer(request, ApiError(error.status_code, message, headers=error.headers))

    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=CLIENT_GONE)

    handlers: dict[Any, Handler] = {
        ApiError: known,
        GemletError: known,
        Exception: known,  # logged by the guard
        RequestValidationError: invalid,
        HTTPException: by_status,
        ClientGone: gone,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


V1 = ("chat/completions", "completions", "responses", "embeddings", "models")


def _route_meant(path: str) -> str | None:
    """The route that a path without /v1, or with more of it, was meant for."""
    rest = re.fullmatch(r"/(?:v1/+)*(.*?)/*", path)
    return f"/v1/{rest[1]}" if rest and rest[1] in V1 else None


def _as_api_error(error: RequestValidationError) -> ApiError:
    """The first problem, with the place it has in the body. The value itself is not repeated."""
    first = error.errors()[0]
    place = _place(first["loc"], first["type"] == "extra_forbidden")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return ApiError(
            400, f"unknown parameter {place[-1]!r}", param=".".join(place), code="unknown_parameter"
        )
    if first["type"] == "json_invalid":
        return ApiError(
            400, f"the body is not JSON: {first.get('ctx', {}).get('error', message)}", code="invalid_json"
        )
    if not place and first["type"] in ("missing", "model_attributes_type", "dict_type"):
        return ApiError(
            400,
            "the body must be a JSON object, sent with Content-Type: application/json",
            code="invalid_json",
        )
    param = ".".join(place) or place_named(message)
    code = "unsupported_parameter" if first["type"] == REFUSAL else "invalid_value"
    return ApiError(400, f"{param}: {message}" if place else message, param=param, code=code)


BRANCH = re.compile(r"str|int|float|bool|dict|list|.*\[.*", re.DOTALL)
"""What a validator's place has where a value may be of several types, none of which it is."""


def _place(location: tuple[str | int, ...], unknown: bool) -> list[str]:
    """Where in the body, without what the validator adds: where it read, and which kind of item it is."""
    parts = list(location)
    if parts[:1] and parts[0] in ("body", "query", "path"):
        del parts[0]
    place: list[str] = []
    for i, part in enumerate(parts):
        if i and isinstance(parts[i - 1], int) and part in TAGS:
            continue
        last_of_unknown = unknown and i == len(parts) - 1
        if isinstance(part, str) and BRANCH.fullmatch(part) and not last_of_unknown:
            break
        place.append(str(part))
    return place
