"""What steps are thought to cost, and how many guesses that makes worth checking."""

from __future__ import annotations

import pytest

from gemlet.infer.step_cost import FIRST_GUESS, KEPT, OLDEST, StepCost, best_count


def measured(**seconds: float) -> StepCost:
    cost = StepCost()
    for name, value in seconds.items():
        cost.add(int(name[1:]), 0, value)
    return cost


def test_a_line_between_measurements_and_beyond_them():
    curve = measured(r1=1.0, r3=2.0, r5=6.0).curve(9)
    assert curve[1:] == pytest.approx([1, 1.5, 2, 4, 6, 7.25, 8.5, 9.75, 11])


def test_before_rows_were_compared_a_row_is_guessed():
    share = FIRST_GUESS
    assert measured(r1=2.0).curve(3)[1:] == pytest.approx([2, 2 * (1 + share), 2 * (1 + 2 * share)])
    unknown = StepCost().curve(2)
    assert unknown[2] / unknown[1] == pytest.approx(1 + FIRST_GUESS)


def test_more_rows_are_not_cheaper():
    assert measured(r1=1.0, r3=9.0, r5=3.0).curve(5)[1:] == pytest.approx([1, 2, 3, 3, 3])


def test_a_pause_of_the_process_does_not_count():
    cost = measured(r1=1.0)
    for _ in range(KEPT // 2):
        cost.add(1, 0, 100.0)
        cost.add(1, 0, 1.0)
    assert cost.curve(1)[1] == 1.0


def test_old_measurements_are_dropped():
    cost = measured(r1=1.0, r2=50.0)
    for _ in range(OLDEST):
        cost.add(1, 0, 1.0)
    assert cost.curve(2)[2] == pytest.approx(1 + FIRST_GUESS)


def test_other_rows_are_told_apart():
    cost = measured(r1=1.0)
    cost.add(1, 50, 6.0)
    assert cost.prompt_row() == pytest.approx(0.1)
    assert cost.curve(1)[1] == 1.0
    cost = StepCost()
    cost.add(0, 100, 5.0)
    assert cost.prompt_row() == pytest.approx(0.05)


def test_many_rows_share_a_measurement():
    cost = measured(r1=1.0, r100=10.0)
    cost.add(105, 0, 20.0)
    assert cost.curve(112)[112] == pytest.approx(15.0)


FLAT = [1.0] * 20
STAIRS = [0, 1, 3, 3, 3, 3, 9, 9, 9]
LINE = [float(rows) for rows in range(20)]


@pytest.mark.parametrize(
    ("chances", "rows", "curve", "beside", "count"),
    [
        ([], 1, FLAT, 0.0, 0),
        ([0.9, 0.8, 0.01], 1, FLAT, 0.0, 3),
        ([0.99, 0.98], 1, LINE, 0.0, 0),
        ([0.9] * 3, 1, STAIRS, 0.0, 3),  # the second row alone would not pay
        ([0.9] * 6, 1, STAIRS, 0.0, 4),
        ([0.5] * 4, 1, STAIRS, 0.0, 0),
        ([0.5, 0.4], 2, [0, 1, 2, 2.4, 2.9], 0.0, 1),
        ([0.99, 0.98], 1, LINE, 100.0, 2),  # beside a long step a row more is nothing
    ],
)
def test_the_count_with_most_tokens_a_second(chances, rows, curve, beside, count):
    tokens = rows + sum(chances[:count])
    expected = count, pytest.approx(tokens / (curve[rows + count] + beside))
    assert best_count(chances, rows, curve, beside) == expected


def test_what_drafting_takes_counts():
    assert best_count([0.9, 0.8], 1, FLAT, prices=[0.1, 0.1])[0] == 2
    assert best_count([0.9, 0.8], 1, FLAT, prices=[0.1, 1.0])[0] == 1
    assert best_count([0.9, 0.8], 1, FLAT, prices=[1.0, 1.0])[0] == 0
