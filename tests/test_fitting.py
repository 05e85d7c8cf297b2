"""The short fit: never worse than at the start, the same after an interruption, stopped when nothing is gained."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from ssmtool.errors import DataError
from ssmtool.fitting import Schedule, fit, held_out

TARGET = torch.linspace(-1, 1, 12).reshape(4, 3)


class Kept:
    """A memory that stops the fit, as a kill would, after so many saves."""

    where = "kept"

    def __init__(self, saves: int | None = None):
        self.saves, self.state = saves, None

    def load(self):
        return copy.deepcopy(self.state)

    def save(self, state):
        self.state = copy.deepcopy(state)
        if self.saves is not None:
            self.saves -= 1
            if self.saves == 0:
                raise KeyboardInterrupt


def start():
    return torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)


def run(schedule, memory=None, judge=None):
    """Fits x * y to rows of TARGET."""
    x, y = start()

    def loss(chosen):
        return (x * y + x - TARGET[chosen]).square().mean()

    def measured():
        with torch.no_grad():
            return loss(torch.arange(4)).item()

    found = fit([(x, 1.0), (y, 0.5)], loss, judge or measured, torch.arange(4), schedule, memory=memory)
    return found, x.detach(), y.detach(), measured()


def test_ends_as_the_best_that_was_judged():
    found, x, _, error = run(Schedule(40, 2, 0.1, looks=8))
    assert error == found.after < found.before
    assert found.steps == 40
    # the mean over rows is the optimum; Adam on two of four rows at a time ends near it
    assert (found.before - found.after) > 0.8 * (found.before - TARGET.var(dim=0, correction=0).mean().item())
    assert x.abs().max() > 0


def test_a_fit_that_only_gets_worse_changes_nothing():
    found, x, y, _ = run(Schedule(20, 4, 1e4, looks=5))
    assert found.after == found.before
    assert torch.equal(x, torch.zeros(3))
    assert torch.equal(y, torch.ones(3))


def test_no_steps_judge_and_change_nothing():
    found, x, _, _ = run(Schedule(0, 4, 0.1))
    assert (found.before, found.steps) == (found.after, 0)
    assert torch.equal(x, torch.zeros(3))


def test_what_is_no_number_is_worse_than_anything():
    errors = iter([math.nan, 3.0, math.nan, -math.inf, 2.0])
    found, *_ = run(Schedule(4, 4, 0.1, looks=4), judge=lambda: next(errors))
    assert (found.before, found.after) == (math.inf, 2.0)


@pytest.mark.parametrize("saves", [1, 3, 7])
def test_going_on_after_a_kill_is_the_same_to_the_last_bit(saves):
    schedule = Schedule(35, 2, 0.1, looks=7)
    whole = run(schedule)
    memory = Kept(saves)
    with pytest.raises(KeyboardInterrupt):
        run(schedule, memory)
    again = run(schedule, memory)
    assert again[0] == whole[0]
    assert torch.equal(again[1], whole[1])
    assert torch.equal(again[2], whole[2])


def test_stops_when_nothing_is_gained_for_so_many_looks():
    errors = iter([5.0, 4.0, 4.5, 4.5, 4.5, 0.0])
    found, *_ = run(Schedule(100, 2, 0.1, looks=10, patience=3), judge=lambda: next(errors))
    assert (found.steps, found.after) == (40, 4.0)


def test_the_last_steps_are_judged_where_looks_do_not_divide_them():
    looks = []
    run(Schedule(7, 2, 0.1, looks=3), judge=lambda: looks.append(1) or 1.0)
    assert len(looks) == 1 + 3


@pytest.mark.parametrize("count", [1, 2, 10, 57])
def test_judging_and_used_are_all_sequences_once(count):
    judging, used = held_out(count, 0.1, torch.Generator().manual_seed(0))
    assert len(judging) >= 1
    assert len(used) >= 1
    both = sorted({*judging.tolist(), *used.tolist()})
    assert both == list(range(count))
    assert count == 1 or len(judging) + len(used) == count


FULL = Schedule(6, 2, 0.1, looks=3)


def odd_states():
    """States that are not of the fit above, as damaged and foreign files have them."""
    whole = Kept()
    run(FULL, whole)
    state = whole.state
    assert state is not None
    number = next(iter(state["moments"]))

    def changed(**new):
        return {**copy.deepcopy(state), **new}

    def moments(**new):
        return {**copy.deepcopy(state["moments"]), number: {**state["moments"][number], **new}}

    for key in state:
        if key != "moments":
            yield f"no {key}", {name: x for name, x in state.items() if name != key}
        yield f"{key} a text", changed(**{key: "x"})
        yield f"{key} a list of lists", changed(**{key: [[1]]})
    yield "more steps than the fit has", changed(done=10**9)
    yield "a step of the optimiser that is none", changed(moments=moments(step=torch.tensor(-1.0)))
    yield "a second moment that is missing", changed(moments={number: {"step": torch.tensor(1.0)}})
    yield "moments of another shape", changed(moments=moments(exp_avg=torch.zeros(9)))
    yield "leaves of another shape", changed(leaves=[torch.zeros(9) for _ in state["leaves"]])
    yield "one leaf more", changed(kept=[*state["kept"], torch.zeros(1)])
    yield "a generator of another kind", changed(generator=torch.zeros(8, dtype=torch.uint8))


def test_a_state_of_something_else_is_refused_in_one_line():
    for what, state in odd_states():
        memory = Kept()
        memory.state = state
        with pytest.raises(DataError, match="kept: what an interrupted fit left is not of this one") as caught:
            run(FULL, memory)
        assert "Delete the file" in caught.value.line(), what
