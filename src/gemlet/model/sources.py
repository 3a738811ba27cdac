"""Model files made uniform: a GGUF file or a Hugging Face folder, checked against what the family says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gemlet.errors import ModelFileError, ModelNotFoundError
from gemlet.formats.tensors import Tensor
from gemlet.model import folder_source, gguf_source
from gemlet.model.config import ModelConfig
from gemlet.model.description import Description, SourceFacts


@dataclass(frozen=True, eq=False)
class Source:
    """An opened model: its facts and its tensors under canonical names, mapped and unread.

    `norm_offset` is what has to be added to norm weights to make them ready to multiply.
    """

    facts: SourceFacts
    description: Description
    tensors: Mapping[str, Tensor]
    norm_offset: float

    @property
    def config(self) -> ModelConfig:
        return self.facts.config


def open_source(path: str | Path) -> Source:
    """Open a GGUF file or a Hugging Face folder.

    Raises ModelFileError naming file and field, or ModelNotFoundError where there is nothing.
    """
    path = Path(path)
    if path.is_dir():
        description, tensors, norm_offset = folder_source.read_folder(path)
    elif path.exists():
        description, tensors, norm_offset = gguf_source.read_file(path)
    else:
        raise ModelNotFoundError(f"{path}: there is no such file or folder")
    facts = describe(path, description)
    _check_tensors(facts, tensors)
    return Source(facts, description, tensors, norm_offset)


def describe(path: str | Path, description: Description) -> SourceFacts:
    """The facts that a description states, with known defects put right. Raises ModelFileError."""
    if description.vocabulary is None:
        return folder_source.describe(Path(path), description.values)
    return gguf_source.describe(Path(path), description.values, description.vocabulary)


def files_of(path: str | Path) -> list[Path]:
    """Every file that a model at this path is read from."""
    path = Path(path)
    return folder_source.description_files(path) + weight_files_of(path) if path.is_dir() else [path]


def weight_files_of(path: str | Path) -> list[Path]:
    """The files that hold the weights, in order."""
    path = Path(path)
    return folder_source.weight_files(path) if path.is_dir() else [path]


def _check_tensors(facts: SourceFacts, tensors: Mapping[str, Tensor]) -> None:
    expected = facts.config.tensor_shapes()
    for name in expected:
        if name not in tensors:
            raise ModelFileError(facts.path, f"tensor {name!r}", "is missing")
    for name, tensor in tensors.items():
        if name not in expected:
            raise ModelFileError(
                facts.path, f"tensor {tensor.name!r}", f"is not part of a {facts.config.family}"
            )
        if tensor.shape != expected[name]:
            problem = (
                f"has the shape {list(tensor.shape)}, where the configuration needs {list(expected[name])}"
            )
            raise ModelFileError(facts.path, f"tensor {tensor.name!r}", problem)
