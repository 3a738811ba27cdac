"""Tiny random models of the Llama kind, made and saved by transformers, and their GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (
        LlamaConfig,
        LlamaForCausalLM,
        {"head_dim": 64, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 288},
    ),
    "llama3": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 128}),
}
WORDS = {"llama": "smollm", "llama3": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2"}
CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim }}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

# As the models' own tokenizer.json files have them.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "llama-bpe": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST,
    "qwen2": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST,
}


def cut_words(words: str) -> Any:
    """The library's pre-tokenizer of this name."""
    if words == "smollm":
        parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)]
    else:
        parts = [pre_tokenizers.Split(Regex(PATTERNS[words]), "isolated")]
    return pre_tokenizers.Sequence(
        [*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words == "smollm")]
    )


def tiny_bpe(words: str, size: int = 400) -> Tokenizer:
    """A byte-level BPE that was trained on a few lines, with three control tokens and one defined word."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=words == "llama-bpe"))
    tokenizer.pre_tokenizer = cut_words(words)
    if words == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        special_tokens=CONTROLS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = Path(__file__).parent / "data/prose.txt"
    tokenizer.train_from_iterator(text.read_text(encoding="utf-8").splitlines()[:60], trainer)
    tokenizer.add_tokens(["<tool_call>"])
    return tokenizer


def tiny_model(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Two layers, weights of ordinary size, norms and biases that are not the neutral ones."""
    config_class, model_class, own = KINDS[kind]
    values: dict[str, Any] = {
        "vocab_size": 400,
        "hidden_size": 192,
        "intermediate_size": 288,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    config = config_class(**values | own | changes)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model: PreTrainedModel = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
            else:
                parameter.normal_(0 if name.endswith("bias") else 1, 0.2)
    return model


def save_folder(folder: Path, model: PreTrainedModel, words: str, chat: str | None = CHAT) -> None:
    """As the Hub holds a model: weights, configuration, tokenizer, chat template."""
    model.save_pretrained(folder)
    tiny_bpe(words, model.config.vocab_size).save(str(folder / "tokenizer.json"))
    if chat is not None:
        (folder / "chat_template.jinja").write_text(chat)


def save_gguf(path: Path, model: PreTrainedModel, words: str, chat: str | None = CHAT) -> None:
    """As llama.cpp's converter writes it: the queries' and keys' rows of a Llama in another order."""
    config, architecture = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _add_tokenizer(writer, tiny_bpe(words, config.vocab_size), words)
    if chat is not None:
        writer.add_chat_template(chat)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = parameter.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        if architecture == "llama" and (part := name.split(".")[-2]) in heads:
            halves = values.reshape(heads[part], 2, -1, values.shape[1])
            values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), values)
    if config.rope_parameters["rope_type"] == "llama3":
        plain = 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
        factors = plain / model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, words: str) -> None:
    document = json.loads(tokenizer.to_str())
    ids = document["model"]["vocab"] | {token["content"]: token["id"] for token in document["added_tokens"]}
    names = sorted(ids, key=lambda name: ids[name])
    kinds = {token["content"]: 3 if token["special"] else 4 for token in document["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(names)
    writer.add_token_types([kinds.get(name, 1) for name in names])
    writer.add_token_merges([" ".join(pair) for pair in document["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
