"""Cards: front matter, what they state and lack."""

from __future__ import annotations

import pytest
import yaml

from gemlet.provenance.check.card import card_facts, check_card
from gemlet.provenance.check.front_matter import FrontMatterError, read_front_matter
from gemlet.provenance.check.published import PUBLISHED

CARD = """---
# a card
license: gemma
license_name: "Gemma Terms of Use"  # named
base_model:
- google/gemma-3-1b-pt
tags: [gemma, 'text-generation']
datasets:
  - own/data
pipeline_tag: text-generation
extra_gated_prompt: >-
  Please accept
  the terms.
widget:
  - text: "Hello: world"
    example_title: one
count: 3
share: 0.5
public: true
nothing: null
---
# A model

It has 1 billion parameters.

## Training Dataset

It was trained on 2 trillion tokens of text.

| Benchmark | Metric | Score |
|---|---|---|
| [HellaSwag][h] | 10-shot | 62.3 |
| [ARC-c](https://arxiv.org/abs/1911.01547) | 25-shot | 38.4 |

[h]: https://arxiv.org/abs/1905.07830
See https://arxiv.org/html/2406.09175v1 and arXiv:2503.19786.
"""


def test_front_matter_is_read_as_yaml_reads_it() -> None:
    assert read_front_matter(CARD) == yaml.safe_load(CARD.split("---\n")[1])
    assert read_front_matter("# no front matter") == {}
    assert read_front_matter("---\nnever: ends\n") == {}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2", 3),
        ("a: 1\n\tb: 2", 3),
        ("a: [1, 2", 3),
        ("a: 'open", 3),
        ("a: &anchor x", 3),
        ("just text", 2),
        ("a: 1\n   b: 2", 3),
        ("\n".join("  " * depth + f"k{depth}:" for depth in range(40)), 15),
    ],
)
def test_what_is_not_read_names_its_line(text: str, line: int) -> None:
    with pytest.raises(FrontMatterError) as caught:
        read_front_matter(f"---\n{text}\n---\n")
    assert caught.value.line == line


def test_what_a_card_states() -> None:
    facts = card_facts(CARD, "google/gemma-3-1b-it")
    assert facts["publisher"] == "google" and facts["licence"] == "gemma"
    assert facts["base_models"] == ["google/gemma-3-1b-pt"] and facts["datasets"] == ["own/data"]
    assert facts["papers"] == ["1905.07830", "1911.01547", "2406.09175", "2503.19786"]
    assert facts["training_data"] == "It was trained on 2 trillion tokens of text."
    assert facts["scores"] == [
        {"name": "HellaSwag", "value": 62.3},
        {"name": "ARC-c", "value": 38.4},
    ]
    assert facts["parameters"] == "1 billion"


def test_what_a_card_lacks() -> None:
    def found(text: str | None, parameters: int | None = None) -> set[str]:
        return {finding.id for finding in check_card(card_facts(text), PUBLISHED["1b"], parameters)}

    assert found(CARD, 999_885_952) == {"citation"}
    assert found(CARD, 1_301_875_840) == {"citation", "parameter-count"}
    assert found(None) == {"card-missing"}
    assert found("# nothing") == {"card-incomplete"}
    assert found("---\na: {b: 1}\n---\n") == {"card-unreadable"}
