"""What requests of the Ollama API may hold, and what stands for it in the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from gemlet.serve.schema import MAX_STOPS, MAX_TOP_LOGPROBS, NO_EFFECT, REFUSED, Off, Stop, Strict

AT_START = NO_EFFECT + "it is chosen when the server starts, and changes no answer."
NO_SUCH = REFUSED + "there is no such setting here."
TEXT_ONLY = REFUSED + "the model reads and writes text only."

NAMES = {"repeat_penalty": "repetition_penalty"}
"""Options that the library calls otherwise."""


class Options(Strict):
    """`options` of a request."""

    temperature: float | None = Field(None, ge=0, description="0 takes the likeliest token.")
    top_k: int | None = Field(None, ge=0, description="How many tokens are drawn from; 0: all.")
    top_p: float | None = Field(None, ge=0, le=1, description="Share of the probability that is drawn from.")
    min_p: float | None = Field(None, ge=0, le=1, description="Least share of the likeliest's.")
    repeat_penalty: float | None = Field(
        None, ge=0.01, le=100, description="Above 1, tokens of prompt and answer come less often."
    )
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Subtracted once from used tokens.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="Subtracted for every use.")
    seed: int | None = Field(
        None, ge=-(2**63), lt=2**63, description="Repeats an answer, to the last bit; -1 draws one."
    )
    num_predict: int | None = Field(
        None, ge=-2, description="Most tokens of the answer; -1 or -2: all the context holds."
    )
    stop: Stop | None = Field(None, description=f"Texts that end the answer, at most {MAX_STOPS}.")
    num_ctx: int | None = Field(None, ge=1, description="Refused above the server's context.")
    num_thread: int | None = Field(None, description=AT_START)
    num_batch: int | None = Field(None, description=AT_START)
    num_gpu: int | None = Field(None, description=AT_START)
    main_gpu: int | None = Field(None, description=AT_START)
    use_mmap: bool | None = Field(None, description=AT_START)
    use_mlock: bool | None = Field(None, description=AT_START)
    low_vram: bool | None = Field(None, description=AT_START)
    numa: bool | None = Field(None, description=AT_START)
    repeat_last_n: Literal[-1] | None = Field(
        None, description="Others are refused: penalties count the whole context."
    )
    num_keep: None = Field(None, description=REFUSED + "nothing is cut.")
    typical_p: None = Field(None, description=NO_SUCH)
    tfs_z: None = Field(None, description=NO_SUCH)
    mirostat: None = Field(None, description=NO_SUCH)
    mirostat_tau: None = Field(None, description=NO_SUCH)
    mirostat_eta: None = Field(None, description=NO_SUCH)
    penalize_newline: None = Field(None, description=NO_SUCH)
    logits_all: None = Field(None, description=NO_SUCH)
    vocab_only: None = Field(None, description=NO_SUCH)
    embedding_only: None = Field(None, description=NO_SUCH)
    draft_num_predict: None = Field(None, description=NO_SUCH)

    @field_validator("num_predict")
    @classmethod
    def _some(cls, value: int | None) -> int | None:
        if value == 0:
            raise ValueError("0 tokens are no answer")
        return value


class OllamaRequest(Strict):
    """What chat and generate have in common."""

    model: str = Field(description="A served model, or a hosted model's name, which the first one answers.")
    stream: bool | None = Field(None, description="An object a line, a token at a time; true by default.")
    options: Options | None = Field(None, description="How the answer is written.")
    format: Literal["", "json"] | dict[str, Any] | None = Field(
        None, description='"json", or a JSON schema that the answer keeps to.'
    )
    logprobs: bool | None = Field(None, description="Log-probabilities of the answer's tokens.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="The likeliest tokens beside each; only with logprobs."
    )
    keep_alive: str | float | None = Field(None, description=NO_EFFECT + "models stay loaded.")
    think: Off | None = Field(None, description="True is refused: the model does not reason apart.")
    truncate: bool | None = Field(
        None, description="True leaves out the beginning of what does not fit, and says so."
    )
    shift: Off | None = Field(None, description="True is refused: nothing is cut.")

    def answer_options(self) -> dict[str, Any]:
        """The arguments of `Model.chat` and `Model.generate` that stand for these fields."""
        given = Options.model_validate({}) if self.options is None else self.options
        names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
        sampling = {
            NAMES.get(name, name): getattr(given, name)
            for name in (*names, "presence_penalty", "frequency_penalty")
        }
        limit = given.num_predict
        return sampling | {
            "seed": None if given.seed == -1 else given.seed,
            "stop": () if given.stop is None else given.stop,
            "max_tokens": limit if limit is not None and limit > 0 else None,
            "logprobs": max(1, self.top_logprobs or 0) if self.logprobs else 0,
            "response_format": _response_format(self.format),
            "truncation": "auto" if self.truncate else None,
        }


def _response_format(form: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if isinstance(form, dict):
        return {"type": "json_schema", "json_schema": {"name": "format", "schema": form}}
    return {"type": "json_object"} if form else None


NoImages = Annotated[list[Any] | None, Field(None, max_length=0, description="Any are refused: text only.")]


class CalledFunction(Strict):
    """The function of a call."""

    name: str = Field(description="Its name.")
    arguments: dict[str, Any] = Field(description="Its arguments.")
    index: int | None = Field(None, description=NO_EFFECT + "calls have their order.")
    description: str | None = Field(None, description=NO_EFFECT + "the declaration has it.")


class Call(Strict):
    """A call that an earlier answer made."""

    function: CalledFunction = Field(description="What was called.")
    id: str | None = Field(None, description="What a result may name.")
    type: Literal["function"] | None = Field(None, description="There is no other.")


class OllamaMessage(Strict):
    """A message."""

    role: Literal["system", "user", "assistant", "tool"] = Field(description="Who speaks.")
    content: str | None = Field(None, description="The text.")
    images: NoImages = None
    thinking: Literal[""] | None = Field(None, description=REFUSED + "the model does not reason apart.")
    tool_calls: list[Call] | None = Field(None, description="Calls of an earlier answer.")
    tool_name: str | None = Field(None, description="The function that gave this result.")
    tool_call_id: str | None = Field(None, description="The call that it belongs to.")


class OllamaChatRequest(OllamaRequest):
    """`POST /api/chat`."""

    messages: list[OllamaMessage] = Field(description="The conversation; with none, nothing is written.")
    tools: list[dict[str, Any]] | None = Field(None, description="Functions that the model may call.")

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as chat completions write them; calls without an id get one."""
        reader = _Conversation()
        return [reader.read(message) for message in self.messages]


class _Conversation:
    """Gives calls ids, and results the id of the call they belong to: by name, else in order."""

    def __init__(self) -> None:
        self._number = 0
        self._waiting: list[tuple[str, str]] = []

    def read(self, message: OllamaMessage) -> dict[str, Any]:
        content = message.content
        if message.role == "tool":
            name, given = message.tool_name, message.tool_call_id
            call = given or self._take(lambda waiting: waiting == name) or self._take(lambda _: name is None)
            return {"role": "tool", "content": content, "tool_call_id": call, "name": name}
        calls = [self._call(call) for call in message.tool_calls or ()]
        read: dict[str, Any] = {"role": message.role, "content": content}
        return read | {"tool_calls": calls} if calls else read

    def _call(self, call: Call) -> dict[str, Any]:
        self._number += 1
        id = call.id or f"call_{self._number}"
        self._waiting.append((id, call.function.name))
        arguments = json.dumps(call.function.arguments, ensure_ascii=False, separators=(",", ":"))
        return {
            "id": id,
            "type": "function",
            "function": {"name": call.function.name, "arguments": arguments},
        }

    def _take(self, fits: Callable[[str], bool]) -> str | None:
        for place, (id, name) in enumerate(self._waiting):
            if fits(name):
                del self._waiting[place]
                return id
        return None


class OllamaGenerateRequest(OllamaRequest):
    """`POST /api/generate`."""

    prompt: str | None = Field(None, description="What is answered; without one, nothing is written.")
    system: str | None = Field(None, description="A system message before the prompt.")
    raw: bool | None = Field(None, description="The prompt is continued as it is: no chat format.")
    images: NoImages = None
    suffix: Literal[""] | None = Field(None, description=REFUSED + "the model cannot fill a gap.")
    template: Literal[""] | None = Field(None, description=REFUSED + "the chat format is the model's own.")
    context: list[int] | None = Field(
        None, max_length=0, description="Any is refused: send the conversation to /api/chat."
    )
    width: None = Field(None, description=TEXT_ONLY)
    height: None = Field(None, description=TEXT_ONLY)
    steps: None = Field(None, description=TEXT_ONLY)

    def conversation(self) -> list[dict[str, Any]]:
        """The messages that stand for the prompt."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.prompt}]


class OllamaShowRequest(Strict):
    """`POST /api/show`."""

    model: str | None = Field(None, description="A served model.")
    name: str | None = Field(None, description="The older name of model.")
    verbose: bool | None = Field(None, description=NO_EFFECT + "there is no more to tell.")
