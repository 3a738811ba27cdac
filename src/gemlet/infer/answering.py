"""Answers to prompts and conversations, for `Model`: waiting for them, or as they are written."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, overload

from gemlet.errors import ConversationError, MissingExtraError
from gemlet.infer.adapters import Adapters
from gemlet.infer.answer import Answer, Prepared
from gemlet.infer.constrain import Constraint, Constraints
from gemlet.infer.engine import Engine, Ticket
from gemlet.infer.options import Defaults, Options, Stop, check_ids, check_switch, prepare, shape_of_answer
from gemlet.infer.requests import Sink
from gemlet.infer.response_format import Shape, shape_of
from gemlet.infer.scoring import TextOrIds
from gemlet.infer.streams import AnswerStream, AsyncAnswerStream
from gemlet.infer.truncation import last_ids, last_messages, room_for_prompt
from gemlet.text.chat_template import ChatTemplate
from gemlet.text.template import Rendered, render, render_base
from gemlet.text.tokenizer import Tokenizer
from gemlet.text.tools import Tool, read_tool_use
from gemlet.types import Completion, Manifest, Message

Messages = Sequence[Message | Mapping[str, Any]]

_CALLS_NOT_HELD = "calls are not held to their schemas: that needs gemlet[structured]"


class PromptAnswering:
    """What a model writes behind prompts and in conversations."""

    context: int
    has_chat_format: bool
    manifest: Manifest
    tokenizer: Tokenizer
    _adapters: Adapters
    _constraints: Constraints
    _defaults: Defaults
    _engine: Engine
    _template: ChatTemplate | None

    # The overloads say what a call gives: one completion, a list of `n`, or the events as they come.
    @overload
    def generate(self, prompt: TextOrIds, *, stream: Literal[True], **options: Any) -> AnswerStream: ...
    @overload
    def generate(self, prompt: TextOrIds, *, n: Literal[1] = 1, **options: Any) -> Completion: ...
    @overload
    def generate(self, prompt: TextOrIds, *, n: int, **options: Any) -> list[Completion]: ...
    def generate(
        self,
        prompt: TextOrIds,
        *,
        max_tokens: int | None = 256,
        n: int = 1,
        stop: Stop = (),
        seed: int | None = None,
        logprobs: int = 0,
        ignore_eos: bool = False,
        adapter: str | None = None,
        response_format: Mapping[str, Any] | None = None,
        regex: str | None = None,
        grammar: str | None = None,
        truncation: Literal["disabled", "auto"] | None = None,
        cache: bool = True,
        draft: bool = True,
        stream: bool = False,
        **sampling: Any,
    ) -> Any:
        """Continue a prompt: text (one BOS is put before it) or token ids, taken as they are.

        The answer ends at a stop id of the model (unless `ignore_eos`), a string or id of `stop`, or
        after `max_tokens` (None: all the context holds). `seed` None draws one, which is reported.
        `logprobs` K > 0 gives each token's log-probability and the K likeliest. `sampling` takes the fields
        of `Sampling`. `adapter` names one of `adapters`, or "base"; None is that of the model's reference.
        `response_format` (OpenAI's), `regex` or `grammar` (Lark): the shape that the answer is held to.
        `truncation` "auto" leaves out the beginning of a prompt that does not fit, and says so. `cache` and
        `draft` false: without earlier requests' prefixes and keeping none, without drafts; same bits.
        `token_ids` include the stop id that ended an answer; `text` has no stop string.

        Returns a Completion, a list of them for n > 1, or with `stream` an iterator of TokenEvent, whose
        `close` cancels. Raises InvalidRequestError, UnsupportedParameterError, ContextLengthError,
        QueueFullError, ModelClosedError.
        """
        shape = shape_of(response_format, regex, grammar)
        options = Options(
            max_tokens,
            n,
            stop,
            seed,
            logprobs,
            ignore_eos,
            adapter,
            sampling,
            shape,
            None,
            truncation,
            cache,
            draft,
        )
        return self._answer(lambda: self._continuation(prompt, options), n, stream)

    @overload
    def chat(self, messages: Messages, *, stream: Literal[True], **options: Any) -> AnswerStream: ...
    @overload
    def chat(self, messages: Messages, *, n: Literal[1] = 1, **options: Any) -> Completion: ...
    @overload
    def chat(self, messages: Messages, *, n: int, **options: Any) -> list[Completion]: ...
    def chat(
        self,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        tools: Any = None,
        tool_choice: Any = None,
        parallel_tool_calls: bool | None = None,
        n: int = 1,
        stop: Stop = (),
        seed: int | None = None,
        logprobs: int = 0,
        ignore_eos: bool = False,
        adapter: str | None = None,
        response_format: Mapping[str, Any] | None = None,
        regex: str | None = None,
        grammar: str | None = None,
        truncation: Literal["disabled", "auto"] | None = None,
        cache: bool = True,
        draft: bool = True,
        stream: bool = False,
        **sampling: Any,
    ) -> Any:
        """Answer a conversation of role/content dictionaries or Message values; otherwise as `generate`.

        What had to be changed about the messages is in the completion's `normalisations`; a model without a
        chat format is asked in a short few-shot frame, which is said there too.

        `tools`, `tool_choice` and `parallel_tool_calls` are OpenAI's. Calls are held to the declared
        functions and their schemas, and end the answer; they are the completion's `tool_calls`. Without
        llguidance "auto" holds them to nothing, which is said, and all else is refused. Raises
        ConversationError, MissingExtraError.
        """
        shape = shape_of(response_format, regex, grammar)
        use = read_tool_use(tools, tool_choice, parallel_tool_calls)
        options = Options(
            max_tokens,
            n,
            stop,
            seed,
            logprobs,
            ignore_eos,
            adapter,
            sampling,
            shape,
            use,
            truncation,
            cache,
            draft,
        )
        return self._answer(lambda: self._reply(messages, options), n, stream)

    @overload
    def agenerate(self, prompt: TextOrIds, *, stream: Literal[True], **options: Any) -> AsyncAnswerStream: ...
    @overload
    def agenerate(
        self, prompt: TextOrIds, *, n: Literal[1] = 1, **options: Any
    ) -> Coroutine[Any, Any, Completion]: ...
    @overload
    def agenerate(
        self, prompt: TextOrIds, *, n: int, **options: Any
    ) -> Coroutine[Any, Any, list[Completion]]: ...
    def agenerate(
        self,
        prompt: TextOrIds,
        *,
        max_tokens: int | None = 256,
        n: int = 1,
        stop: Stop = (),
        seed: int | None = None,
        logprobs: int = 0,
        ignore_eos: bool = False,
        adapter: str | None = None,
        response_format: Mapping[str, Any] | None = None,
        regex: str | None = None,
        grammar: str | None = None,
        truncation: Literal["disabled", "auto"] | None = None,
        cache: bool = True,
        draft: bool = True,
        stream: bool = False,
        **sampling: Any,
    ) -> Any:
        """`generate` for an event loop: a coroutine, or with `stream` an async iterator of TokenEvent.

        Cancelling the task that waits, or closing the iterator, cancels the request.
        """
        shape = shape_of(response_format, regex, grammar)
        options = Options(
            max_tokens,
            n,
            stop,
            seed,
            logprobs,
            ignore_eos,
            adapter,
            sampling,
            shape,
            None,
            truncation,
            cache,
            draft,
        )
        return self._answer_async(lambda: self._continuation(prompt, options), n, stream)

    @overload
    def achat(self, messages: Messages, *, stream: Literal[True], **options: Any) -> AsyncAnswerStream: ...
    @overload
    def achat(
        self, messages: Messages, *, n: Literal[1] = 1, **options: Any
    ) -> Coroutine[Any, Any, Completion]: ...
    @overload
    def achat(
        self, messages: Messages, *, n: int, **options: Any
    ) -> Coroutine[Any, Any, list[Completion]]: ...
    def achat(
        self,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        tools: Any = None,
        tool_choice: Any = None,
        parallel_tool_calls: bool | None = None,
        n: int = 1,
        stop: Stop = (),
        seed: int | None = None,
        logprobs: int = 0,
        ignore_eos: bool = False,
        adapter: str | None = None,
        response_format: Mapping[str, Any] | None = None,
        regex: str | None = None,
        grammar: str | None = None,
        truncation: Literal["disabled", "auto"] | None = None,
        cache: bool = True,
        draft: bool = True,
        stream: bool = False,
        **sampling: Any,
    ) -> Any:
        """`chat` for an event loop: a coroutine, or with `stream` an async iterator of TokenEvent."""
        shape = shape_of(response_format, regex, grammar)
        use = read_tool_use(tools, tool_choice, parallel_tool_calls)
        options = Options(
            max_tokens,
            n,
            stop,
            seed,
            logprobs,
            ignore_eos,
            adapter,
            sampling,
            shape,
            use,
            truncation,
            cache,
            draft,
        )
        return self._answer_async(lambda: self._reply(messages, options), n, stream)

    def _continuation(self, prompt: TextOrIds, options: Options) -> Prepared:
        ids = self.tokenizer.encode(prompt, bos=True) if isinstance(prompt, str) else check_ids(prompt)
        said: tuple[str, ...] = ()
        if options.truncates:
            room = room_for_prompt(self.context, options.max_tokens)
            ids, said = last_ids(ids, room, self.tokenizer.bos_id)
        adapter, constraint = self._adapters.find(options.adapter), self._constraint(options.shape)
        return prepare(ids, options, self._defaults, (), said, adapter, constraint)

    def _reply(self, messages: Messages, options: Options) -> Prepared:
        use = options.tools
        tools = () if use is None else use.tools
        if options.truncates:
            room = room_for_prompt(self.context, options.max_tokens)
            rendered = last_messages(messages, lambda some: self._rendered(some, False, tools), room)
        else:
            rendered = self._rendered(messages, False, tools)
        adapter = self._adapters.find(options.adapter)
        constraint, said = None, rendered.normalisations
        try:
            constraint = self._constraint(shape_of_answer(options))
        except MissingExtraError:
            if use is None or use.choice.mode != "auto" or options.shape is not None:
                raise
            said += (_CALLS_NOT_HELD,)
        return prepare(rendered.ids, options, self._defaults, rendered.stop, said, adapter, constraint)

    def _constraint(self, shape: Shape | None) -> Constraint | None:
        return None if shape is None else self._constraints.compile(shape)

    def _rendered(self, messages: Messages, strict: bool, tools: Sequence[Tool] = ()) -> Rendered:
        if self._template is not None:
            return self._template.render(messages, tools=tools, strict=strict)
        if self.has_chat_format:
            return render(messages, self.tokenizer, tools=tools, strict=strict)
        if strict:
            raise ConversationError("a base model has no chat format that could be kept strictly")
        return render_base(messages, self.tokenizer, tools=tools)

    def _submit(self, prepared: Prepared, sink: Sink) -> tuple[Answer, Ticket]:
        tickets: list[Ticket] = []
        adapter = prepared.request.adapter
        manifest = replace(self.manifest, adapter_sha256=None if adapter is None else adapter.info.sha256)
        answer = Answer(prepared, self.tokenizer, manifest, lambda index: tickets[0].cancel(index))
        tickets.append(self._engine.submit(prepared.request, sink))
        return answer, tickets[0]

    def _answer(self, prepare: Callable[[], Prepared], n: int, stream: bool) -> Any:
        check_switch("stream", stream)
        events = AnswerStream(prepare(), self._submit)
        if stream:
            return events
        with events:
            for _ in events:
                pass
        return events.completions[0] if n == 1 else events.completions

    def _answer_async(self, prepare: Callable[[], Prepared], n: int, stream: bool) -> Any:
        check_switch("stream", stream)
        events = AsyncAnswerStream(prepare, self._submit)
        if stream:
            return events

        async def collect() -> Completion | list[Completion]:
            async with events:
                async for _ in events:
                    pass
            return events.completions[0] if n == 1 else events.completions

        return collect()
