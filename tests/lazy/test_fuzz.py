"""Some hundred combinations of the fuzz of lazy tensors, others each time; the seed is printed."""

import collections
import random

import pytest
import torch

from devices import DEVICE
from fuzz_lazy import Case, attempt, draw_case, explore
from lazy_actions import ACTIONS, OBSERVES, READS, WRITES
from lazy_networks import STATES, TAILS

COUNT = 300


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param(DEVICE, marks=pytest.mark.device)], ids=str)
def test_what_users_do_is_as_in_plain_torch(rng, device):
    seed = int(torch.randint(2**31, (), generator=rng))
    differences, _ = explore(COUNT, seed, device)
    assert not differences, (seed, differences)


@pytest.mark.slow
@pytest.mark.parametrize("action", [*WRITES, *OBSERVES])
def test_each_write_and_each_look_once(rng, action):
    """Drawn at random some would be missed; these are the ones that went wrong."""
    draws = random.Random(int(torch.randint(2**31, (), generator=rng)))
    for _ in range(40):
        case = draw_case(draws)
        case = Case(**{**vars(case), "action": action, "precision": (16, 16), "mode": "grad"})
        found = attempt(case)
        if found is not None:
            assert found == [], case
            return
    pytest.fail("every draw was too close to a kink")


def test_the_comparison_sees_a_fault(rng, monkeypatch):
    """A write that gets lost and a gradient that is cut are found, whatever the draw."""
    draws = random.Random(int(torch.randint(2**31, (), generator=rng)))
    lost = collections.Counter()

    def forgets(h, seen):
        return h if h.dtype == torch.float32 else h.mul(0.5)

    def cuts(h, seen):
        return h.detach() * 1 if h.dtype == torch.float32 else h

    for name, fault in {"forgets": forgets, "cuts": cuts}.items():
        monkeypatch.setitem(ACTIONS, name, fault)
        while lost[name] < 3:
            case = draw_case(draws)
            changes = {"action": name, "mode": "grad", "state": "norm silu", "tail": "itself"}
            found = attempt(Case(**{**vars(case), **changes}))
            if found is not None:
                assert found, case
                lost[name] += 1


def test_it_draws_from_everything():
    draws = random.Random(0)
    cases = [draw_case(draws) for _ in range(5000)]
    assert {case.action for case in cases} == set(ACTIONS) == {*READS, *WRITES, *OBSERVES}
    assert {case.state for case in cases} == set(STATES)
    assert {case.tail for case in cases} == set(TAILS)
