"""The scheduler: tables of who gets which rows."""

from __future__ import annotations

import pytest

from gemlet.errors import InvalidRequestError, QueueFullError
from gemlet.infer.scheduler import AGEING, HIGHEST_PRIORITY, Job, Limits, Outlook, Scheduler


def scheduler(step_rows=16, beside=6, sequences=3, waiting=100, limit=None):
    return Scheduler(Limits(step_rows, beside, sequences, waiting, limit))


def plan(of):
    of.admit()
    return [(chunk.id, chunk.rows) for chunk in of.plan()]


def test_one_prompt_is_cut_into_steps():
    s = scheduler()
    s.submit(Job(1, 35))
    assert [plan(s) for _ in range(4)] == [[(1, 16)], [(1, 16)], [(1, 3)], []]
    assert not s.idle
    s.more(1)
    assert plan(s) == [(1, 1)]
    s.remove(1)
    assert s.idle


def test_prompts_share_a_step():
    s = scheduler()
    for id, rows in [(1, 10), (2, 10), (3, 2), (4, 1)]:
        s.submit(Job(id, rows))
    # Half for the first, then the one with the least left; three may run, so 4 waits.
    assert plan(s) == [(1, 10), (2, 4), (3, 2)]
    assert plan(s) == [(2, 6)]
    s.remove(2)
    assert plan(s) == [(4, 1)]


def test_a_held_prompt_gets_no_rows_and_makes_no_answer_wait():
    s = scheduler()
    for id, rows in [(1, 20), (2, 20)]:
        s.submit(Job(id, rows))
    s.admit()
    s.hold({2})
    assert plan(s) == [(1, 16)]
    s.more(1, -3)  # its answer begins
    assert s.outlook() == Outlook((1,), 0, 15)
    s.hold({})
    assert s.outlook().beside == 6
    assert plan(s) == [(1, 1), (2, 6)]


def test_answers_come_first_and_prompts_beside_them_are_smaller():
    s = scheduler()
    s.submit(Job(1, 1))
    plan(s)
    s.more(1)
    s.submit(Job(2, 100))
    assert plan(s) == [(1, 1), (2, 6)]
    assert plan(s) == [(2, 16)]  # nothing of 1 is pending: it waits for its token
    s.more(1)
    assert plan(s) == [(1, 1), (2, 6)]


def test_answers_with_drafts_share_the_step():
    s = scheduler(step_rows=8, sequences=3)
    for id in (1, 2, 3):
        s.submit(Job(id, 1))
    plan(s)
    for id in (1, 2, 3):
        s.more(id, 7)
    assert plan(s) == [(1, 2), (2, 3), (3, 3)]
    assert plan(s) == [(2, 2), (3, 3), (1, 3)]


def test_a_short_prompt_passes_a_long_one_that_still_moves_on():
    s = scheduler()
    s.submit(Job(1, 1000))
    s.submit(Job(2, 1000))
    s.submit(Job(3, 12))
    assert plan(s) == [(1, 8), (3, 8)]
    assert plan(s) == [(1, 12), (3, 4)]
    assert plan(s) == [(1, 16)]


def test_priority_counts_among_prompts():
    s = scheduler()
    s.submit(Job(1, 1000))
    plan(s)
    s.submit(Job(2, 10))
    s.submit(Job(3, 500, priority=1))
    assert plan(s) == [(1, 8), (3, 8)]


def test_drafts_take_no_rows_from_a_prompt():
    s = scheduler(step_rows=8, beside=6)
    for id in (1, 2):
        s.submit(Job(id, 1))
    plan(s)
    s.submit(Job(3, 10))
    s.more(1, 5)
    s.more(2, 2)
    assert plan(s) == [(2, 1), (1, 1), (3, 6)]
    assert plan(s) == [(2, 1), (1, 3), (3, 4)]
    assert plan(s) == [(1, 1)]


def test_drafts_take_what_is_left_and_leave_nothing_behind():
    s = scheduler(step_rows=16, beside=6)
    s.submit(Job(1, 1))
    s.submit(Job(2, 1))
    plan(s)
    s.more(1)
    s.more(2)
    s.submit(Job(3, 100))
    s.admit()
    assert s.outlook() == Outlook((1, 2), 6, 8)
    assert [(c.id, c.rows) for c in s.plan({1: 5, 2: 7})] == [(1, 5), (2, 5), (3, 6)]
    s.more(1)
    assert s.outlook() == Outlook((1,), 6, 9)
    assert [(c.id, c.rows) for c in s.plan({2: 3})] == [(1, 1), (3, 6)]  # 2 brings no row: no draft either


def test_without_prompts_drafts_may_fill_the_step():
    s = scheduler(step_rows=16, beside=6)
    s.submit(Job(1, 1))
    plan(s)
    assert s.outlook() == Outlook((), 0, 16)
    s.more(1)
    assert s.outlook() == Outlook((1,), 0, 15)
    assert [(c.id, c.rows) for c in s.plan({1: 40})] == [(1, 16)]
    assert plan(s) == []


def test_a_short_rest_of_a_prompt_keeps_its_rows():
    s = scheduler(step_rows=16, beside=6)
    s.submit(Job(1, 1))
    plan(s)
    s.more(1)
    s.submit(Job(2, 2))
    s.admit()
    assert s.outlook() == Outlook((1,), 2, 13)
    assert [(c.id, c.rows) for c in s.plan({1: 14})] == [(1, 14), (2, 2)]


def test_chunk_limits_a_prompt():
    s = scheduler()
    s.submit(Job(1, 20, chunk=5))
    s.submit(Job(2, 20))
    assert plan(s) == [(1, 5), (2, 11)]


def test_known_rows_are_skipped():
    s = scheduler()
    s.submit(Job(1, 30))
    assert s.admit() == (1,) and s.admit() == ()
    with pytest.raises(InvalidRequestError, match="skip"):
        s.skip(1, 30)
    s.skip(1, 29)
    assert plan(s) == [(1, 1)]


def test_followers_pass_the_line():
    s = scheduler(sequences=2)
    for id in (1, 2, 3):
        s.submit(Job(id, 1))
    plan(s)
    s.follow(Job(10, 1))
    s.remove(1)
    assert plan(s) == [(10, 1)]


def test_followers_do_not_wait_for_a_long_prompt():
    s = scheduler(sequences=3)
    for id, rows in [(1, 1), (2, 1000)]:
        s.submit(Job(id, rows))
    plan(s)
    s.more(1)
    s.follow(Job(10, 1))
    assert plan(s) == [(1, 1), (10, 1), (2, 6)]


def test_priority_and_ageing():
    s = scheduler(sequences=1)
    s.submit(Job(0, 1))
    plan(s)
    s.submit(Job(1, 1, priority=0))
    order, running = [], 0
    for id in range(2, 40):
        s.submit(Job(id, 1, priority=1))
        s.remove(running)
        ((running, _),) = plan(s)
        order.append(running)
    # The low one is overtaken only until its age makes up for the priority.
    assert order.index(1) == AGEING


def test_head_of_line_waits_for_memory_and_nothing_passes_it():
    s = scheduler(limit=100)
    s.submit(Job(1, 1, price=60))
    s.submit(Job(2, 1, price=50))
    s.submit(Job(3, 1, price=10))
    assert plan(s) == [(1, 1)]
    assert plan(s) == []
    s.remove(1)
    assert plan(s) == [(2, 1), (3, 1)]


def test_what_can_never_run_is_refused():
    s = scheduler(limit=100)
    with pytest.raises(InvalidRequestError, match="101 bytes"):
        s.submit(Job(1, 1, price=101))
    with pytest.raises(InvalidRequestError, match="no rows"):
        s.submit(Job(1, 0))
    for priority in (HIGHEST_PRIORITY + 1, -HIGHEST_PRIORITY - 1):
        with pytest.raises(InvalidRequestError, match="a priority is from -100 to 100"):
            s.submit(Job(1, 1, priority=priority))
    s.submit(Job(1, 1))
    with pytest.raises(InvalidRequestError, match="known already"):
        s.submit(Job(1, 1))


def test_the_line_is_bounded_and_cancelling_frees_a_place():
    s = scheduler(sequences=1, waiting=2)
    s.submit(Job(1, 1))
    plan(s)
    s.submit(Job(2, 1))
    s.submit(Job(3, 1))
    with pytest.raises(QueueFullError):
        s.submit(Job(4, 1))
    s.remove(2)
    s.submit(Job(4, 1))
    now = s.occupancy(7)
    assert (now.waiting, now.running, now.prefix_bytes) == (2, 1, 7)
    s.remove(99)  # unknown: nothing happens


@pytest.mark.parametrize("values", [(0, 1, 1, 1), (8, 0, 1, 1), (8, 1, 0, 1), (8, 1, 1, 0), (8, 1, 8, 1)])
def test_limits_are_checked(values):
    with pytest.raises(InvalidRequestError):
        Limits(*values)
