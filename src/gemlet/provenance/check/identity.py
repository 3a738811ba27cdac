"""Whether a GGUF file or a checkpoint of Gemma 3 is what the publisher made: each known trap is a finding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemlet.errors import ModelFileError
from gemlet.formats.gguf import GgufFile
from gemlet.model.description import SourceFacts
from gemlet.model.families import GEMMA3
from gemlet.model.sources import open_source
from gemlet.provenance.check.claims import claim_of, is_qat
from gemlet.provenance.check.content import check_head, check_norms, check_values
from gemlet.provenance.check.findings import Finding, Severity
from gemlet.provenance.check.published import (
    CONTEXT,
    END_OF_TURN,
    SPECIAL_IDS,
    WINDOW,
    Published,
    published,
)
from gemlet.provenance.check.template import check_template
from gemlet.provenance.check.tokens import check_vocabulary, vocabulary_of
from gemlet.provenance.check.traps import trap

_Q4_K_FILES = (14, 15)
"""`general.file_type` of Q4_K_S and Q4_K_M."""

_TOKENIZER = "tokenizer.ggml."


def check_gguf(file: GgufFile, quick: bool = False) -> list[Finding]:
    """Findings about a GGUF file. `quick`: tensors are not read."""
    where, metadata = Path(file.path).name, single_values(file.metadata)
    found: list[Finding] = []
    if metadata.get("general.architecture") == GEMMA3.name:
        facts, refused = _loaded(Path(file.path))
        found += _check_shape(where, metadata)
        found += _check_ids(where, metadata, facts)
        found += _check_pieces(where, file.metadata, facts)
        found += _check_chat(where, metadata, Path(file.path).name, facts)
        found += _check_quantisation(where, file)
        found += check_head(where, file.tensors.get("token_embd.weight"), file.tensors.get("output.weight"))
        if refused is not None and not any(finding.severity == "error" for finding in found):
            severity: Severity = "error" if shape_of(file) is not None else "warning"
            found.append(trap("not-loadable", f"{where}: {refused.field}", refused.problem, severity))
        if not quick:
            found += check_norms(where, file.tensors, ready=True)
    else:
        what = f"its architecture is {str(metadata.get('general.architecture'))[:40]!r}"
        found.append(trap("other-family", where, what))
    if not quick:
        found += check_values(where, file.tensors)
    return found


def _loaded(path: Path) -> tuple[SourceFacts | None, ModelFileError | None]:
    """What the loader makes of a file, or why it refuses it."""
    try:
        return open_source(path).facts, None
    except ModelFileError as error:
        return None, error


def _check_shape(where: str, metadata: Mapping[str, Any]) -> list[Finding]:
    def value(key: str) -> Any:
        return metadata.get(f"{GEMMA3.name}.{key}")

    found = []
    for key, base in (("rope.freq_base", GEMMA3.rope_theta), ("rope.freq_base_swa", GEMMA3.rope_local_theta)):
        optional = key.endswith("swa")  # in the code of every program; the file may leave it out
        if value(key) != base and not (optional and value(key) is None):
            found.append(trap("rope-theta", f"{where}: {GEMMA3.name}.{key}", f"is {value(key)}"))
    model = published(value("embedding_length"), value("block_count"))
    if model is None:  # larger ones have other windows, heads and scaling
        what = f"hidden size {value('embedding_length')}, {value('block_count')} layers: no published shape"
        return [*found, trap("unknown-shape", where, what)]
    for key in ("attention.key_length", "attention.value_length"):
        if value(key) != GEMMA3.head_dim:
            found.append(trap("head-dim", f"{where}: {GEMMA3.name}.{key}", f"is {value(key)}"))
    if value("rope.scaling.type") not in (None, "none") or value("rope.scaling.factor") not in (None, 1.0):
        what = f"is {value('rope.scaling.type')}, factor {value('rope.scaling.factor')}"
        found.append(trap("rope-theta", f"{where}: {GEMMA3.name}.rope.scaling", what))
    if value("attention.sliding_window") != WINDOW:
        field = f"{where}: {GEMMA3.name}.attention.sliding_window"
        found.append(trap("window", field, f"is {value('attention.sliding_window')}"))
    sizes = {
        "feed_forward_length": model.intermediate_size,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "context_length": CONTEXT,
    }
    return found + [
        trap("size-differs", f"{where}: {GEMMA3.name}.{key}", f"is {value(key)}, {model.name} has {right}")
        for key, right in sizes.items()
        if value(key) != right
    ]


def _check_ids(where: str, metadata: Mapping[str, Any], facts: SourceFacts | None) -> list[Finding]:
    found = []
    for name, right in SPECIAL_IDS.items():
        id = metadata.get(f"{_TOKENIZER}{name}_token_id", right)
        if id != right and not (name == "eos" and id == END_OF_TURN):
            found.append(
                trap("special-ids", f"{where}: {_TOKENIZER}{name}_token_id", f"is {id}, not {right}")
            )
    if metadata.get(f"{_TOKENIZER}add_bos_token", True) is not True:
        found.append(trap("bos-flag", f"{where}: {_TOKENIZER}add_bos_token", "is false"))
    prefix = metadata.get(f"{_TOKENIZER}add_space_prefix")
    if prefix is not False:
        what = "is missing" if prefix is None else "is true"
        found.append(trap("space-prefix", f"{where}: {_TOKENIZER}add_space_prefix", what))
    stated = {metadata.get(f"{_TOKENIZER}{name}_token_id") for name in ("eos", "eot")}
    if facts is not None and END_OF_TURN in facts.config.stop_ids and END_OF_TURN not in stated:
        what = f"neither eos_token_id nor eot_token_id is {END_OF_TURN}"
        found.append(trap("end-of-turn", f"{where}: {_TOKENIZER}eot_token_id", what))
    return found


def _check_pieces(where: str, metadata: Mapping[str, Any], facts: SourceFacts | None) -> list[Finding]:
    stated = vocabulary_of(*(metadata.get(_TOKENIZER + key) for key in ("tokens", "scores", "token_type")))
    if stated is None:
        return []
    return check_vocabulary(where, stated, None if facts is None else facts.tokenizer.vocabulary)


def _check_chat(
    where: str, metadata: Mapping[str, Any], file_name: str, facts: SourceFacts | None
) -> list[Finding]:
    template, claim = metadata.get("tokenizer.chat_template"), claim_of(metadata, file_name)
    field = f"{where}: tokenizer.chat_template"
    if template is None:
        missing = claim == "chat"
        return (
            [trap("template-missing", field, "it calls itself a chat model and has none")] if missing else []
        )
    if not isinstance(template, str):
        return []  # the loader refuses it
    found = check_template(field, template)
    if claim == "base":
        found.append(
            trap("chat-on-base", field, "it calls itself a pretrained model and has a chat template")
        )
    if metadata.get(f"{_TOKENIZER}add_bos_token", True) is True and "bos_token" in template:
        found.append(trap("double-bos", field, "the template prints <bos>, and add_bos_token is true"))
    return found


def _check_quantisation(where: str, file: GgufFile) -> list[Finding]:
    metadata, found = single_values(file.metadata), []
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.data.nbytes
    if metadata.get("general.file_type") in _Q4_K_FILES and sizes.get("Q4_K", 0) * 2 < sum(sizes.values()):
        share = sizes.get("Q4_K", 0) / sum(sizes.values())
        found.append(trap("mostly-not-q4-k", where, f"{share:.0%} of its bytes are Q4_K"))
    embedding = file.tensors.get("token_embd.weight")
    if embedding is not None and embedding.kind in ("F16", "F32") and "Q4_0" in sizes:
        found.append(trap("embedding-f16", where, f"token_embd is {embedding.kind} beside Q4_0"))
    if is_qat(metadata, Path(file.path).name):
        by_matrix = any(key.startswith("quantize.imatrix.") for key in metadata)
        moved = [
            name for name, tensor in file.tensors.items() if tensor.kind == "Q4_1" and "ffn_down" in name
        ]
        if by_matrix or moved:
            what = "quantize.imatrix.* is in its metadata" if by_matrix else f"{moved[0]} is Q4_1"
            found.append(trap("imatrix-on-qat", where, f"it is made from QAT weights, and {what}"))
    return found


def shape_of(file: GgufFile) -> Published | None:
    """The published model that a GGUF file has the shape of."""
    if file.metadata.get("general.architecture") != GEMMA3.name:
        return None
    metadata = single_values(file.metadata)
    return published(
        metadata.get(f"{GEMMA3.name}.embedding_length"), metadata.get(f"{GEMMA3.name}.block_count")
    )


def single_values(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without lists: of each only that it is one, so that it equals no value."""
    return {
        key: value if isinstance(value, bool | int | float | str) else "a list"
        for key, value in metadata.items()
    }
