"""The public `Model`: text and messages in, text, scores and logits out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from gemlet.infer.adapters import Adapters
from gemlet.infer.answering import Messages, PromptAnswering
from gemlet.infer.cache import PageFiles, root_key
from gemlet.infer.constrain import Constraints
from gemlet.infer.engine import PREFIX_BYTES, Engine
from gemlet.infer.options import (
    Defaults,
    check_ids,
)
from gemlet.infer.reading import PromptReading
from gemlet.infer.requests import Watcher
from gemlet.infer.scheduler import Limits, Occupancy
from gemlet.infer.speculate import Speculator
from gemlet.infer.worker import Decoder
from gemlet.model.adapters import AdapterFile
from gemlet.model.config import ModelConfig
from gemlet.text.chat_template import ChatTemplate
from gemlet.text.tokenizer import Tokenizer
from gemlet.text.tools import read_tools
from gemlet.types import AdapterInfo, Manifest, Sampling


class Model(PromptAnswering, PromptReading):
    """An open model. A context manager, safe to use from several threads; `gemlet.load` makes one.

    `sampling` holds its defaults, `context` the positions a request may take, `reference` how it was named,
    `notices` what a person should be told about it, one line each.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        *,
        manifest: Manifest,
        sampling: Sampling,
        has_chat_format: bool,
        template: ChatTemplate | None = None,
        context: int | None = None,
        reference: str = "",
        notices: tuple[str, ...] = (),
        limits: Limits | None = None,
        prefix_bytes: int = PREFIX_BYTES,
        prefix_files: PageFiles | None = None,
        speculator: Speculator | None = None,
        adapter: AdapterFile | None = None,
        spare_work: Iterator[None] | None = None,
    ) -> None:
        self.config: ModelConfig = decoder.config
        self.manifest = manifest
        self.sampling = sampling
        self.has_chat_format = has_chat_format
        self._template = template
        self.reference = reference
        self.notices = notices
        self.tokenizer = tokenizer
        self._adapters = Adapters(decoder, manifest.weights_sha256)
        if adapter is not None:
            self._adapters.default = self._adapters.add(adapter).name
        self._engine = Engine(
            decoder,
            context=context,
            limits=limits,
            prefix_bytes=prefix_bytes,
            prefix_files=prefix_files,
            prefix_root=root_key(replace(manifest, adapter_sha256=None), decoder.build),
            speculator=speculator,
            spare_work=spare_work,
        )
        self.context = self._engine.context
        self._constraints = Constraints(tokenizer, self.config.stop_ids)
        self._defaults = Defaults(sampling, self.config.stop_ids, self.context, self.config.vocab_size)

    def tokenize(self, text: str, bos: bool = True) -> list[int]:
        """The ids of a text; control tokens it spells out stay text. TextError for what has no encoding."""
        return self.tokenizer.encode(text, bos=bos)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of ids. InvalidRequestError for ids that the vocabulary does not have."""
        return self.tokenizer.decode(check_ids(ids))

    def render(self, messages: Messages, tools: Any = None, strict: bool = False) -> list[int]:
        """The ids that `chat` would send, ending where the model's turn begins.

        `tools` is a list of functions as the OpenAI API takes it, which the prompt then declares. `strict`
        refuses, with ConversationError, what would otherwise be normalised.
        """
        return list(self._rendered(messages, strict, read_tools(tools)).ids)

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """The adapters at hand, by name: what requests may name as `adapter`, besides "base" for none."""
        return self._adapters.infos()

    def load_adapter(self, path: str | os.PathLike[str], name: str | None = None) -> AdapterInfo:
        """Read a PEFT LoRA folder, so that requests can name it: as `name`, or as the folder is called.

        Requests with different adapters, and with none, run side by side. Raises ModelFileError for what is
        not supported or was made for another model, InvalidRequestError for a name that is taken.
        """
        return self._adapters.load(os.fspath(path), name)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Requests that run with it are not touched."""
        self._adapters.unload(name)

    def watch(self, watcher: Watcher | None) -> None:
        """Have `watcher` see every request from now on, and its events, on the engine's thread."""
        self._engine.watch(watcher)

    def occupancy(self) -> Occupancy:
        """Requests that wait and run now, and the memory that they and kept prompts hold."""
        return self._engine.occupancy()

    def close(self) -> None:
        """Give everything back; requests that still run end as cancelled. Calling it again does nothing."""
        self._engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
