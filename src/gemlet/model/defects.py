"""Known defects of published files, put right with one visible line each. The facts are in `families`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemlet.model.families import Family
from gemlet.types import Vocabulary


def correct_values(family: Family, values: dict[str, Any]) -> list[str]:
    """Replace wrong configuration values in place; returns the lines."""
    shape = values["hidden_size"], len(values["layer_types"])
    lines = []
    for defect in family.defects:
        if (defect.hidden_size, defect.layers) == shape and values[defect.field] == defect.wrong:
            values[defect.field] = defect.right
            lines.append(f"{defect.field} is {defect.wrong} in the file and was corrected to {defect.right}")
    return lines


def correct_stop_ids(
    family: Family, stated: tuple[int, ...], chat: bool
) -> tuple[tuple[int, ...], list[str]]:
    """The stop ids that the files state, with those that every model of its sort has."""
    known = family.chat_stop_ids if chat else family.base_stop_ids
    lines = [f"stop id {id} is missing in the file and was added" for id in known if id not in stated]
    return tuple(sorted({*stated, *known})), lines


def correct_types(family: Family, vocabulary: Vocabulary) -> tuple[NDArray[np.int32], list[str]]:
    """The pieces' types, right for the family's own vocabulary; any other vocabulary is taken as it is.

    A control piece of another type would be produced from user text.
    """
    types: NDArray[np.int32] = vocabulary.types
    if len(vocabulary) != family.vocab_size or any(
        vocabulary.piece(id) != piece for id, piece in family.vocabulary_marks.items()
    ):
        return types, []
    expected = family.expected_types()
    wrong = (expected != 1) & (types != expected)
    wrong[types == 2] = False  # the unknown piece has a type of its own in some files
    if not wrong.any():
        return types, []
    return np.where(wrong, expected, types), [f"{wrong.sum()} pieces had a wrong type and were corrected"]
