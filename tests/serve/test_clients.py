"""Other clients of the OpenAI API: OpenAI's for Node, and LangChain."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from tests.conftest import NODE_MODULES, node_package
from tests.serve.conftest import Server

QUESTION = "The area of a wide room"
MESSAGES = [{"role": "user", "content": QUESTION}]


def test_the_node_client(server: Server) -> None:
    node_package("openai")
    script = Path(__file__).with_name("node_client.mjs")
    done = subprocess.run(
        ["node", str(script), str(NODE_MODULES), server.url], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    expected = server.model.chat(MESSAGES, max_tokens=12, seed=3, temperature=0.8)
    assert got["chat"] == expected.text and got["logprobs"] == len(expected.token_ids)
    assert got["streamed"] == {"text": expected.text, "completion_tokens": len(expected.token_ids)}
    assert set(got["formed"]) == {"a"} and isinstance(got["formed"]["a"], bool)
    assert got["required"] and all(call == ["ping", {}] for call in got["required"])
    assert got["reason"] == "tool_calls"
    assert got["loop"] == {"said": [{}], "results": ["pong"]}
    text = server.model.generate("area", max_tokens=5, seed=1)
    assert got["text"] == "area" + text.text
    assert got["echoed"] == text.usage.prompt_tokens + text.usage.completion_tokens
    assert np.array_equal(np.array(got["embeddings"], np.float32), server.model.embed(["area", "wide room"]))
    assert got["models"] == ["model"]
    assert got["refused"] == {
        "bad": True, "missing": False, "status": 400, "param": "temperature", "code": "invalid_value",
    }  # fmt: skip
    assert got["unknown"]["missing"] and got["unknown"]["code"] == "model_not_found"


class Flag(BaseModel):
    """A flag."""

    colour: Literal["red", "blue"]
    wide: bool


@tool
def ping(wide: bool) -> str:
    """Says pong."""
    return f"pong {wide}"


def langchain(server: Server, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="gpt-4o",
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        max_retries=0,
        **({"seed": 3, "temperature": 0.8} | options),
    )


def test_langchain_chats_and_streams(server: Server) -> None:
    expected = server.model.chat(MESSAGES, max_tokens=12, seed=3, temperature=0.8)
    llm = langchain(server, max_tokens=12)
    done = llm.invoke(QUESTION)
    assert done.content == expected.text
    assert done.usage_metadata is not None
    assert done.usage_metadata["output_tokens"] == len(expected.token_ids)
    assert "".join(str(part.content) for part in llm.stream(QUESTION)) == expected.text
    logged = langchain(server, max_tokens=5, logprobs=True, top_logprobs=2).invoke(QUESTION)
    assert len(logged.response_metadata["logprobs"]["content"]) == logged.usage_metadata["output_tokens"]


def test_langchain_calls_tools_and_sends_results(server: Server) -> None:
    llm = langchain(server).bind_tools([ping], tool_choice="ping", parallel_tool_calls=False)
    asked = llm.invoke(QUESTION)
    (call,) = asked.tool_calls
    assert call["name"] == "ping" and isinstance(call["args"]["wide"], bool)
    result = ping.invoke(call)
    assert isinstance(result, ToolMessage) and result.content == f"pong {call['args']['wide']}"
    later = langchain(server, max_tokens=5).invoke([HumanMessage(QUESTION), asked, result])
    assert later.content and not later.tool_calls


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_answers_in_a_form(
    server: Server, method: Literal["json_schema", "function_calling"]
) -> None:
    assert isinstance(langchain(server).with_structured_output(Flag, method=method).invoke(QUESTION), Flag)


def test_langchain_embeds(server: Server) -> None:
    embeddings = OpenAIEmbeddings(
        model="text-embedding-3-small",
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        check_embedding_ctx_length=False,
    )
    got = embeddings.embed_documents(["area", "wide room"])
    assert np.array_equal(np.array(got, np.float32), server.model.embed(["area", "wide room"]))
