"""Requests made from the OpenAPI document: no defect, and answers that keep to what it says of them."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from gemlet.serve.app import make_routes
from gemlet.serve.registry import Registry
from gemlet.serve.schema import MAX_CHOICES
from tests.infer.fake_model import fake_model
from tests.serve.conftest import Server

EXAMPLES = 30

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
]

with fake_model() as _model:  # only for what the routes are called
    DOCUMENT = schemathesis.openapi.from_dict(make_routes(Registry([_model])).openapi())

LIMITS: dict[str, Any] = {
    "/v1/chat/completions": {"max_tokens": 4, "max_completion_tokens": 4, "n": 4},
    "/v1/completions": {"max_tokens": 4, "n": 4, "best_of": 4},
    "/v1/responses": {"max_output_tokens": 4},
}


@DOCUMENT.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_requests_from_the_document(server: Server, case: schemathesis.Case) -> None:
    if isinstance(case.body, dict):
        # A model there is, and few tokens: a name that nobody serves would end every request.
        if isinstance(case.body.get("model"), str):
            case.body["model"] = "model"
        for name, most in LIMITS.get(case.path, {}).items():
            given = case.body.get(name)
            if isinstance(given, int) and most < given <= MAX_CHOICES:  # what is too large stays so
                case.body[name] = most
    if "name" in (case.path_parameters or {}) and len(case.path_parameters["name"]) % 2:
        case.path_parameters["name"] = "model"
    case.call_and_validate(base_url=server.url, checks=CHECKS)
