"""The page on the server it is for, instead of the stand-in."""

from __future__ import annotations

from collections.abc import Callable

from tests.infer.fake_model import fake_model
from tests.serve.conftest import serving
from tests.serve.page.visit import Visit


def test_a_question_is_answered(visit: Callable[..., Visit]) -> None:
    with fake_model() as model, serving(model) as server:
        it = visit(server.url)
        it.ask("The area of a wide room")
        it.ended()
        line = '"/v1/chat/completions", "status": 200'
        for _ in range(50):  # it is written when the answer's last byte is sent
            if any(line in told for told in server.log):
                break
            it.page.wait_for_timeout(100)
        assert any(line in told for told in server.log), server.log
        assert it.answers.count() == 1 and it.answers.first.inner_text().strip()
