"""Before and after through the engine: what is equal is a tie, what differs is found, and time is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gemlet.errors import InvalidRequestError
from gemlet.infer.chat import Model
from gemlet.model.adapters import read_adapter
from gemlet.model.weights import Weights
from gemlet.model.weights import load as load_weights
from gemlet.ops.packed import unpack
from gemlet.store.load import load
from gemlet.tune.evaluation import HeldOut, Options, evaluate, same_answer, write_evaluation
from gemlet.tune.moved import low_rank_norm, moved_between, moved_by_adapter
from gemlet.tune.sides import MOST_TOKENS, Budget, Side
from gemlet.tune.verdict import verdict
from tests.tune.evaluated import CONFIG, HELD_OUT, examples, pairs, prompts, write_lora, write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    with load(write_model(folder), threads=1) as opened:
        opened.load_adapter(write_lora(folder / "nothing", 0.0))
        opened.load_adapter(write_lora(folder / "something", 3.0))
        yield opened


@pytest.fixture(scope="module")
def unchanged(model: Model) -> dict[str, Any]:
    return evaluate(Side(model, "base"), Side(model, "nothing"), HELD_OUT)


@pytest.fixture(scope="module")
def changed(model: Model) -> dict[str, Any]:
    return evaluate(Side(model, "base"), Side(model, "something"), HELD_OUT)


def test_an_adapter_of_zeros_changes_nothing(unchanged: dict[str, Any]) -> None:
    loss, text = unchanged["loss"], unchanged["text"]
    assert loss["before"] == loss["after"]
    assert loss["difference"] == {"estimate": 0, "low": 0, "high": 0}
    assert loss["p"] == 1
    assert text["kl"] == {"estimate": 0, "low": 0, "high": 0}
    assert text["perplexity_ratio"]["high"] == 1
    assert unchanged["questions"]["only_before"] == unchanged["questions"]["only_after"] == 0
    assert all(sample["before"] == sample["after"] for sample in unchanged["samples"])
    assert unchanged["verdict"]["headline"] == "No measurable change"
    assert unchanged["verdict"]["domain"] == "same"


def test_the_loss_is_that_of_the_logits(model: Model, changed: dict[str, Any]) -> None:
    total, count = {"base": 0.0, "something": 0.0}, 0
    for held_out in HELD_OUT.items:
        targets = np.flatnonzero(held_out.learned)
        count += len(targets)
        for adapter in total:
            rows = model.logits(held_out.ids.tolist(), targets - 1, adapter=adapter).astype(np.float64)
            shifted = rows - rows.max(axis=1, keepdims=True)
            picked = shifted[np.arange(len(rows)), held_out.ids[targets]]
            total[adapter] -= float((picked - np.log(np.exp(shifted).sum(axis=1))).sum())
    loss = changed["loss"]
    assert (loss["tokens"], loss["n"], loss["of"]) == (count, 30, 30)
    # The engine's log-probabilities are float32: about 1e-6 of values near ten.
    assert loss["before"]["estimate"] == pytest.approx(total["base"] / count, abs=1e-4)
    assert loss["after"]["estimate"] == pytest.approx(total["something"] / count, abs=1e-4)
    assert loss["difference"]["low"] < loss["difference"]["estimate"] < loss["difference"]["high"]


def test_an_adapter_that_does_something_is_found(model: Model, changed: dict[str, Any]) -> None:
    text = changed["text"]
    assert 0 < text["kl"]["low"] < text["kl"]["estimate"]
    assert text["n"] == text["of"] >= 14
    assert any(sample["before"] != sample["after"] for sample in changed["samples"])
    task = changed["samples"][0]
    alone = model.generate(task["prompt"], adapter="something", temperature=0.0, max_tokens=256)
    assert alone.text.startswith(task["after"])
    assert changed["before"]["adapter_sha256"] is None
    assert changed["after"]["adapter_sha256"] == model.adapters["something"].sha256


def test_what_the_tuned_model_answers_counts_as_right(model: Model) -> None:
    made = []
    for prompt in prompts(6):
        answer = model.generate(
            prompt.text or "", adapter="something", temperature=0.0, max_tokens=MOST_TOKENS
        )
        made.append(replace(prompt, answer=answer.text))
    found = evaluate(Side(model, "base"), Side(model, "something"), HeldOut((), made), (), Options(seed=1))
    exact = found["answers"]["exact"]
    assert exact["only_after"] > 0 == exact["only_before"]
    assert exact["after"]["estimate"] > exact["before"]["estimate"]
    assert found["loss"] is None


def test_preferences_are_pairs_whose_chosen_side_is_likelier(model: Model) -> None:
    items = pairs(12)
    found = evaluate(Side(model, "base"), Side(model, "something"), HeldOut(items))
    right = []
    for pair in items:
        chosen, rejected = (
            Side(model, "something").learned_logprobs([side])[0].sum()
            for side in (pair.chosen, pair.rejected)
        )
        right.append(chosen > rejected)
    assert found["preferences"]["n"] == 12
    assert found["preferences"]["after"]["estimate"] == pytest.approx(sum(right) / 12)
    assert found["answers"] is None


def test_two_models_beside_each_other(model: Model, folder: Path) -> None:
    with load(write_model(folder, seed=1), threads=1) as other:
        options = Options(seed=2)
        found = evaluate(Side(model, "base"), Side(other), HeldOut(examples(4)), (), options)
    assert found["text"]["kl"]["low"] > 0
    assert found["before"]["weights_sha256"] != found["after"]["weights_sha256"]


def test_time_that_is_out_leaves_one_round_of_each_stage(model: Model) -> None:
    held_out = HeldOut(examples(60), prompts(30))
    sides = Side(model, "base"), Side(model, "something")
    found = evaluate(*sides, held_out, (), Options(budget_s=0.0))
    used = [found["loss"]["n"], found["answers"]["exact"]["n"], found["text"]["n"], found["questions"]["n"]]
    assert used == [16, 8, 1, 8]
    assert found["loss"]["of"] == 60
    assert found["text"]["kl"]["low"] is None  # one document says nothing of others
    again = evaluate(*sides, held_out, (), Options(budget_s=0.0))
    for name in ("loss", "answers", "text", "questions", "samples", "verdict"):
        assert found[name] == again[name]


def test_stopping_keeps_what_was_measured(model: Model, folder: Path) -> None:
    told: list[str] = []
    options = Options(
        progress=lambda what, done, total: told.append(what), stop=lambda: any("loss" in w for w in told)
    )
    found = evaluate(Side(model, "base"), Side(model, "something"), HELD_OUT, (), options)
    assert found["interrupted"] and found["loss"] is not None and found["text"] is None
    assert json.loads(write_evaluation(found, folder).read_text("utf-8")) == found


def test_control_c_keeps_what_was_measured(model: Model) -> None:
    def progress(what: str, done: int, total: int) -> None:
        if "general text" in what:
            raise KeyboardInterrupt

    options = Options(progress=progress)
    found = evaluate(Side(model, "base"), Side(model, "something"), HELD_OUT, (), options)
    assert found["interrupted"] and found["loss"] is not None and found["questions"] is None
    assert model.generate("still open", max_tokens=1).token_ids


def test_other_vocabularies_are_refused(model: Model) -> None:
    class Other:
        reference, config, manifest = "other", CONFIG, replace(model.manifest, tokenizer_sha256="f" * 64)

    with pytest.raises(InvalidRequestError, match="vocabularies differ"):
        evaluate(Side(model), Side(Other()), HELD_OUT)  # type: ignore[arg-type]


def test_a_budget_gives_what_is_left_to_later_stages() -> None:
    now = [0.0]
    budget = Budget(30.0, {"a": 1.0, "b": 1.0, "c": 1.0}, clock=lambda: now[0])
    budget.stage("a")
    for _ in budget.rounds(range(3), 1):
        now[0] += 1
    budget.stage("b")  # of the 27 s left it has half
    rounds = 0
    for _ in budget.rounds(range(100), 1):
        now[0], rounds = now[0] + 5, rounds + 1
    assert rounds == 2


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "normalised"),
    [
        (" yes\n", "yes", True, True),
        ("Yes.", "yes", False, True),
        ('{"b": 1, "a": [2]}', '{"a":[2],"b":1}', False, True),
        ('{"a": 1}', '{"a": 2}', False, False),
        ("[" * 100_000, "[", False, False),
        ("no", "yes", False, False),
    ],
)
def test_answers_that_count_as_the_same(answer: str, expected: str, exact: bool, normalised: bool) -> None:
    assert same_answer(answer, expected) == (exact, normalised)


# --- What moved


def test_the_norm_of_a_product_that_is_never_formed(model: Model, folder: Path) -> None:
    parts = read_adapter(folder / "something", CONFIG).parts
    weights = load_weights(folder / "model-0.gguf", "stored", cache_dir=None).weights
    found = {moved.name: moved for moved in moved_by_adapter(parts, weights)}
    assert len(found) == 14
    for name, part in parts.items():
        product = part.scale * unpack(part.b).astype(float) @ unpack(part.a).astype(float)
        norm = float(np.linalg.norm(product))
        assert low_rank_norm(part) == pytest.approx(norm, rel=1e-10)
        size = float(np.linalg.norm(unpack(weights.packed[name]).astype(float)))
        assert found[name].relative == pytest.approx(norm / size, rel=1e-10)
    order = [moved.relative for moved in found.values()]
    assert order == sorted(order, reverse=True)


def test_the_way_between_two_models(folder: Path) -> None:
    before = load_weights(folder / "model-0.gguf", "stored", cache_dir=None).weights
    embedding = before.packed["token_embd"]
    moved = replace(embedding, arrays={"values": embedding.arrays["values"] * np.float32(1.5)})
    after = Weights({**before.packed, "token_embd": moved}, before.vectors, "0" * 64, "f32")
    first, *others = moved_between(before, after)
    assert (first.name, first.relative) == ("token_embd", pytest.approx(0.5))
    assert {other.change for other in others} == {0.0}
    with pytest.raises(InvalidRequestError, match="different matrices"):
        moved_between(before, Weights({}, {}, "", ""))


# --- The verdict


def interval(estimate: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"estimate": estimate, "low": low, "high": high}


def judged(loss: tuple[float, float], ratio: tuple[float, float], p: float = 0.01, n: int = 50) -> Any:
    """The verdict on a change of the loss and of perplexity elsewhere, each given as an interval."""
    one = interval(1.0, 0.9, 1.1)
    middle = sum(loss) / 2
    document = {
        "loss": {
            "n": n,
            "difference": interval(middle, *loss),
            "p": p,
            "perplexity_before": one,
            "perplexity_after": one,
        },
        "text": {
            "n": 14,
            "perplexity_ratio": interval(sum(ratio) / 2, *ratio),
            "kl": interval(0.1, 0.05, 0.2),
        },
        "questions": None,
    }
    return verdict(document)


@pytest.mark.parametrize(
    ("loss", "ratio", "headline", "domain", "forgetting"),
    [
        ((-0.5, -0.3), (0.99, 1.01), "Better in its domain", "better", "none"),
        ((-0.5, -0.3), (1.01, 1.04), "Better in its domain", "better", "small"),
        ((-0.5, -0.3), (1.06, 1.2), "Better in its domain, at a cost outside it", "better", "notable"),
        ((-0.5, -0.3), (1.3, 1.5), "Better in its domain, but much was forgotten", "better", "severe"),
        ((-0.1, 0.1), (0.99, 1.01), "No measurable gain", "tie", "none"),
        ((-0.1, 0.1), (1.06, 1.2), "No measurable gain, and a loss outside the domain", "tie", "notable"),
        ((0.1, 0.2), (0.99, 1.01), "Worse in its own domain", "worse", "none"),
    ],
)
def test_verdicts(
    loss: tuple[float, float], ratio: tuple[float, float], headline: str, domain: str, forgetting: str
) -> None:
    found = judged(loss, ratio)
    assert (found.headline, found.domain, found.forgetting) == (headline, domain, forgetting)


def test_a_tie_of_few_examples_asks_for_more() -> None:
    assert "too few" in judged((-0.1, 0.1), (0.99, 1.01), n=5).advice
    assert judged((-0.5, -0.3), (1.0, 1.0), p=0.2).domain == "tie"


def test_nothing_held_out_is_no_gain() -> None:
    found = verdict({"loss": None, "answers": None, "preferences": None, "text": None, "questions": None})
    assert (found.domain, found.forgetting, found.headline) == ("unknown", "unknown", "Gain unknown")
