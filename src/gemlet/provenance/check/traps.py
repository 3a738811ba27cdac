"""The known traps of Gemma 3 files, by name: how bad each is, what comes of it, and its cure. Data only."""

from __future__ import annotations

from collections.abc import Mapping

from gemlet.provenance.check.findings import Finding, Severity

_CONVERT = "convert it again from the publisher's files with a current converter"
_TEMPLATE = "take the publisher's template"
_LOADS = "gemlet corrects it when it loads the file; other programs need the field set right"

TRAPS: Mapping[str, tuple[Severity, str, str]] = {
    "not-loadable": ("error", "gemlet refuses the file", _CONVERT),
    "other-family": (
        "note",
        "its tokenizer, template and constants were not compared with an original",
        "its licence, hashes, tensors and card were checked all the same",
    ),
    "unknown-shape": (
        "note",
        "its window and sizes could not be compared with the publisher's",
        "nothing, if it is meant to be of that shape",
    ),
    "window": (
        "error",
        "local layers look at other positions than the model was trained with: worse answers to long prompts",
        f"the window is 512; {_LOADS}",
    ),
    "rope-theta": (
        "error",
        "positions are encoded wrongly: text falls apart, the longer the sooner",
        "global layers have the base 1000000, local ones 10000, and no scaling",
    ),
    "head-dim": (
        "error",
        "attention is cut into the wrong heads: the output is noise",
        "head_dim is 256; it is not hidden size / heads",
    ),
    "size-differs": ("error", "it is another model than its shape says", _CONVERT),
    "sparse-config": (
        "error",
        "programs put in the defaults of their class, which fit neither 1B nor 270M: another model is built",
        "write every key; take the publisher's config.json",
    ),
    "space-prefix": (
        "error",
        "llama.cpp puts a space before the text: the first token of every prompt is another one",
        f"set tokenizer.ggml.add_space_prefix to false; {_LOADS}",
    ),
    "bos-flag": (
        "error",
        "programs that follow the flag give no <bos>: perplexity grows beyond any use",
        "set the flag that adds <bos> to true",
    ),
    "double-bos": (
        "note",
        "a program that renders the template and then encodes with special tokens gives <bos> twice",
        "encode the rendered text without special tokens; gemlet always gives exactly one",
    ),
    "special-ids": (
        "error",
        "programs begin, pad or end text with the wrong token",
        "<pad> is 0, <eos> 1, <bos> 2, <unk> 3, the end of a turn 106",
    ),
    "end-of-turn": (
        "warning",
        "programs that follow the file do not stop at the end of an answer, which is 106 and never <eos>",
        f"name both stop ids, 1 and 106; {_LOADS}",
    ),
    "tokenizer-eos": (
        "warning",
        "trainers keyed to eos_token mask or move the wrong stop; the publisher's file has <eos>",
        "set eos_token back to <eos> and name the stop ids in generation_config.json: [1, 106]",
    ),
    "piece-types": (
        "error",
        "control tokens are made from ordinary text, or code loses its indentation",
        f"use the publisher's types; {_LOADS}",
    ),
    "vocabulary": (
        "error",
        "the same text becomes other tokens than the model was trained with",
        "take tokenizer.model from the publisher (sha256 1299c11d…)",
    ),
    "piece-scores": (
        "error",
        "pieces are joined in another order: the same text becomes other tokens",
        "take tokenizer.model from the publisher (sha256 1299c11d…)",
    ),
    "token-without-row": (
        "error",
        "text that holds the token reads past the embedding",
        "remove the token, or train and store a row for it",
    ),
    "image-token": (
        "note",
        "text that holds <image_soft_token> becomes id 262144, past the embedding, in careless programs",
        "take the string out of untrusted text; gemlet never makes control tokens from text",
    ),
    "no-tokenizer-model": (
        "warning",
        "llama.cpp's converter takes another way without it and makes another tokenizer",
        "copy the publisher's tokenizer.model beside the weights",
    ),
    "template-missing": (
        "error",
        "programs fall back to a chat format that the model has never seen",
        "add the publisher's chat template",
    ),
    "chat-on-base": (
        "warning",
        "a pretrained model has learned no chat format: it does not end its turns",
        "drop the template, or say what it was tuned from and on",
    ),
    "template-broken": ("error", "programs cannot render a conversation", _TEMPLATE),
    "template-system-turn": (
        "warning",
        "the system message gets a turn of its own; training had it at the head of the first user turn",
        _TEMPLATE,
    ),
    "template-untrimmed": (
        "warning",
        "white space around messages gives other tokens than training did",
        _TEMPLATE,
    ),
    "template-bos": (
        "error",
        "a rendered conversation has not exactly one <bos>",
        _TEMPLATE,
    ),
    "template-differs": (
        "warning",
        "conversations are given to the model in another form than in training",
        "take the publisher's template, unless the model was tuned with this one",
    ),
    "template-text": ("note", "none was seen: it renders as the publisher's does", "nothing"),
    "template-unrendered": (
        "note",
        "whether it renders as the publisher's does is not known",
        "pip install 'gemlet[families]' and check again",
    ),
    "norm-offset": (
        "error",
        "every norm is wrong by one: the output is noise or much worse",
        "Hugging Face files hold w, GGUF files w + 1: add 1 exactly once when converting",
    ),
    "head-untied": (
        "warning",
        "the file holds a head beside the embedding: a third more memory, and tools that tie them drop it",
        "intended only where the embedding was trained; otherwise leave the head out",
    ),
    "head-copied": ("note", "the head is stored twice: the file is larger for nothing", "leave the copy out"),
    "imatrix-on-qat": (
        "warning",
        "QAT weights lie on the Q4_0 grid already: an importance matrix moves them off and makes them worse",
        "quantise to plain Q4_0 with the embedding at Q8_0, without an importance matrix",
    ),
    "mostly-not-q4-k": (
        "note",
        "rows of 640 and 1152 hold no blocks of 256: most tensors are Q5_0 and Q8_0, the file is larger",
        "from QAT weights, Q4_0 with the embedding at Q8_0 is smaller and better",
    ),
    "embedding-f16": (
        "note",
        "the embedding takes twice the bytes that it needs, and is read for every token",
        "Q8_0 costs nothing measurable",
    ),
    "half-precision": (
        "warning",
        "activations of this model exceed what float16 holds: answers become empty or NaN",
        "use bfloat16 or float32 (dtype in config.json)",
    ),
    "half-overflow": (
        "error",
        "values were cut off or made infinite when they were stored as float16",
        "store as BF16 or F32",
    ),
    "not-finite": ("error", "NaN spreads to every token", "fetch or convert it again"),
    "all-zero": (
        "error",
        "a whole tensor is dead: an interrupted or failed conversion",
        "fetch or convert it again",
    ),
}


def trap(id: str, where: object, what: str, severity: Severity | None = None) -> Finding:
    """The finding of a known trap."""
    usual, consequence, cure = TRAPS[id]
    return Finding(id, "identity", severity or usual, str(where), what, consequence, cure)
