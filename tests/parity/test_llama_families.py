"""Models of the Llama kind against transformers in float32, and proof that the comparison notices faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import gemlet
from gemlet.errors import ModelFileError
from gemlet.model import decoder as decoder_module
from gemlet.model.adapters import read_adapter
from gemlet.model.config import ModelConfig
from gemlet.model.decoder import Decoder
from gemlet.model.weights import Loaded, Weights, load
from gemlet.ops.batch import Batch
from gemlet.ops.operations import Program
from gemlet.ops.reference import ReferenceExecutor
from tests.llama_models import KINDS, WORDS, save_folder, save_gguf, tiny_bpe, tiny_model
from tests.parity.oracle import rounding_tolerance, run

IDS = np.random.default_rng(3).integers(0, 400, 150).tolist()


@dataclass(frozen=True)
class Case:
    kind: str
    folder: Path
    loaded: Loaded
    expected: NDArray[np.float32]

    @property
    def config(self) -> ModelConfig:
        return self.loaded.facts.config

    def difference(self, decoder: Decoder, sizes: tuple[int, ...] = (256,)) -> float:
        """Largest difference from transformers' logits, in tolerances."""
        got = np.concatenate([logits for _, logits in run(decoder, IDS, sizes)])
        return float(np.abs(got - self.expected).max()) / rounding_tolerance(self.config, self.expected)


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind, folder = request.param, tmp_path_factory.mktemp("models") / "m"
    model = tiny_model(kind)
    save_folder(folder, model, WORDS[kind])
    save_gguf(folder.with_suffix(".gguf"), model, WORDS[kind])
    with torch.inference_mode():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    return Case(kind, folder, load(folder, "stored", cache_dir=None), expected)


def test_reference_equals_transformers(case: Case) -> None:
    decoder = Decoder(case.config, case.loaded.weights, executor="reference")
    assert case.difference(decoder, (1, 70, 5)) <= 1


def test_a_gguf_file_holds_the_same_model(case: Case, tmp_path: Path) -> None:
    path = case.folder.with_suffix(".gguf")
    for _ in range(2):  # packed, then from the cache
        found = load(path, "stored", cache_dir=tmp_path)
        own, theirs = found.facts.config, case.config
        assert replace(own, rope_divisors=(), rms_norm_eps=0.5) == replace(
            theirs, rope_divisors=(), rms_norm_eps=0.5
        )
        np.testing.assert_allclose(own.rope_divisors, theirs.rope_divisors, rtol=2e-6)
        assert own.rms_norm_eps == pytest.approx(theirs.rms_norm_eps)
        for name, vector in case.loaded.weights.vectors.items():
            np.testing.assert_array_equal(found.weights.vectors[name], vector)
        for name, matrix in case.loaded.weights.packed.items():
            for part, array in matrix.arrays.items():
                np.testing.assert_array_equal(found.weights.packed[name].arrays[part], array)


def test_native_agrees_and_gives_the_same_bits_in_any_chunks(case: Case) -> None:
    """With int8 weights and inputs, as tests of the other family allow for three roundings in series."""
    weights = load(case.folder, "int8", cache_dir=None).weights

    def logits(executor: str, sizes: tuple[int, ...], threads: int | None = None) -> NDArray[np.float32]:
        decoder = Decoder(case.config, weights, executor=executor, threads=threads)
        return np.concatenate([part for _, part in run(decoder, IDS, sizes)])

    exact, native = logits("reference", (256,)), logits("native", (256,), 1)
    error = float(np.sqrt(np.mean((exact - native) ** 2) / np.mean(exact**2)))
    assert error <= 2 * 6**0.5 * 0.005  # two layers
    for sizes, threads in (((1,), 2), ((7, 64), 1), ((150,), 2)):
        np.testing.assert_array_equal(logits("native", sizes, threads), native)


class Gelu:
    def __init__(self, operations: Any) -> None:
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operations, name)

    def silu_gate(self, gate: Any, up: Any) -> Any:
        return self._operations.gelu_gate(gate, up)


def test_checker_notices_another_gate(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(program: Program, **options: Any) -> ReferenceExecutor:
        return ReferenceExecutor(replace(program, forward=lambda ops: program.forward(Gelu(ops))), **options)

    monkeypatch.setitem(decoder_module.EXECUTORS, "faulty", faulty)
    assert case.difference(Decoder(case.config, case.loaded.weights, executor="faulty")) > 1


def without(ending: str) -> Callable[[Weights], Weights]:
    def changed(weights: Weights) -> Weights:
        kept = {name: vector for name, vector in weights.vectors.items() if not name.endswith(ending)}
        assert len(kept) < len(weights.vectors)
        return replace(weights, vectors=kept)

    return changed


FAULTS: dict[str, list[tuple[Mapping[str, Any], Callable[[Weights], Weights] | None]]] = {
    "llama": [({"rope_theta": 10100.0}, None), ({"embedding_scale": 1.001}, None)],
    "llama3": [({"rope_divisors": ()}, None)],
    "qwen2": [({}, without("attn_q.bias")), ({}, without("attn_v.bias"))],
    "qwen3": [({}, without("attn_k_norm")), ({"rms_norm_eps": 1e-4}, None)],
}


def test_checker_notices_what_makes_the_family(case: Case) -> None:
    for changes, change in FAULTS[case.kind]:
        weights = case.loaded.weights if change is None else change(case.loaded.weights)
        decoder = Decoder(replace(case.config, **changes), weights, executor="reference")
        assert case.difference(decoder) > 1, (changes, change)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_an_adapter_adds_what_peft_adds(kind: str, tmp_path: Path) -> None:
    """For a GGUF file too: its matrices are in the order of the adapter's once they are loaded."""
    from peft import LoraConfig, get_peft_model

    model = tiny_model(kind)
    save_folder(tmp_path / "m", model, WORDS[kind])
    save_gguf(tmp_path / "m.gguf", model, WORDS[kind])
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=targets)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    with torch.inference_mode():
        expected = adapted(torch.tensor([IDS])).logits[0].numpy()
    for name in ("m", "m.gguf"):
        found = load(tmp_path / name, "stored", cache_dir=None)
        config = found.facts.config
        got = _adapted(Decoder(config, found.weights, executor="reference"), tmp_path / "adapter")
        tolerance = 2 * rounding_tolerance(config, expected)  # two products more to each matrix
        assert np.abs(got - expected).max() <= tolerance
        # Native keeps keys and values in 16 bits, which the reference can do as well.
        kept = [
            _adapted(
                Decoder(config, found.weights, executor=name, cache_type="float16"), tmp_path / "adapter"
            )
            for name in ("reference", "native")
        ]
        error = float(np.sqrt(np.mean((kept[0] - kept[1]) ** 2) / np.mean(kept[0] ** 2)))
        assert error <= 4 * 2.0**-12


def _adapted(decoder: Decoder, adapter: Path) -> NDArray[np.float32]:
    """Logits of IDS with an adapter."""
    parts = decoder.adapter(read_adapter(adapter, decoder.config).parts)
    batch = Batch.of([(decoder.new_state(), IDS)], logits="all")
    return decoder.step(replace(batch, adapters=(parts,))).logits


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rope": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_parameters": None}, "yarn"),
    "window": ({"use_sliding_window": True}, "use_sliding_window"),
    "layers": ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
    "experts": ({"num_local_experts": 8}, "num_local_experts"),
    "experts by type": ({"model_type": "qwen2_moe"}, "supported are gemma3_text, llama, qwen2, qwen3"),
    "bias": ({"mlp_bias": True}, "mlp_bias"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act"),
    "unknown": ({"surprise": 1}, "surprise"),
    "inner": ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "odd": 1}}, "odd"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_computed_is_refused_by_name(what: str, tmp_path: Path) -> None:
    changes, said = REFUSED[what]
    save_folder(tmp_path, tiny_model("qwen2"), "qwen2")
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=said):
        load(tmp_path, cache_dir=None)


def test_rows_of_the_embedding_without_a_piece_are_no_text(tmp_path: Path) -> None:
    """Qwen's embeddings have some hundred rows more than its tokenizer has pieces."""
    save_folder(tmp_path, tiny_model("qwen2"), "qwen2")
    tiny_bpe("qwen2", 380).save(str(tmp_path / "tokenizer.json"))
    with gemlet.load(tmp_path) as model:
        assert model.tokenizer.vocab_size == 400
        assert model.detokenize([399]) == "" and model.tokenizer.is_control(399)
        done = model.chat([{"role": "user", "content": "Hello"}], max_tokens=5, logit_bias={399: 100.0})
        assert done.text == "" and done.token_ids == (399,) * 5
