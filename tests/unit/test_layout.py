"""A state that is laid out for one stage and number of ranks holds the same values in any other layout."""

import json

import pytest
import torch

from r0.actors.learner.layout import Segment, reshaped
from r0.errors import UserError

A, B = torch.arange(5.0), torch.arange(10.0, 13.0)


def state(tensors, segments):
    adam = [{"step": torch.tensor(7.0), "exp_avg": tensor + 100, "exp_avg_sq": tensor + 200} for tensor in tensors]
    return {"masters": tensors, "adam": adam, "steps": 7, "layout": json.dumps(segments)}


PLAIN = [[Segment("a", 0, 0, 5)], [Segment("b", 0, 0, 3)]]  # ZeRO 0
ENDS = [[[Segment("a", 0, 0, 4)]], [[Segment("a", 4, 0, 1), Segment("b", 0, 1, 3)]]]  # two ranks: a and b end to end
SPLIT = [[[Segment("a", 0, 0, 3), Segment("b", 0, 3, 2)]], [[Segment("a", 3, 0, 2), Segment("b", 2, 3, 1)]]]  # two ranks, ZeRO 3
LAID_OUT = {
    "plain": [state([A, B], PLAIN)],
    "end to end": [state([A[:4].clone()], ENDS[0]), state([torch.cat([A[4:], B])], ENDS[1])],
    "split": [
        state([torch.cat([A[:3], B[:2]])], SPLIT[0]),
        state([torch.tensor([A[3], A[4], 0.0, B[2], 0.0])], SPLIT[1]),
    ],
}


def values(state, kind):
    return state["masters"] if kind == "masters" else [each[kind] for each in state["adam"]]


@pytest.mark.parametrize("there", LAID_OUT)
@pytest.mark.parametrize("here", LAID_OUT)
def test_the_values_are_the_same(there, here):
    for expected in LAID_OUT[here]:
        layout = [[Segment(*segment) for segment in segments] for segments in json.loads(expected["layout"])]
        found = reshaped(LAID_OUT[there], layout, [tensor.numel() for tensor in expected["masters"]])
        for kind in ("masters", "exp_avg", "exp_avg_sq"):
            for mine, theirs, segments in zip(values(found, kind), values(expected, kind), layout, strict=True):
                for _, _, place, length in segments:
                    torch.testing.assert_close(mine[place : place + length], theirs[place : place + length], rtol=0, atol=0)
        assert all(float(each["step"]) == 7.0 for each in found["adam"])


def test_another_models_state_is_refused():
    with pytest.raises(UserError, match=r"no parameter c of this size"):
        reshaped(LAID_OUT["plain"], [[Segment("c", 0, 0, 5)]], [5])
    with pytest.raises(UserError, match=r"no parameter b of this size"):
        reshaped(LAID_OUT["plain"], [[Segment("b", 0, 0, 5)]], [5])


def test_a_state_without_moments_is_reshaped_too():
    (plain,) = LAID_OUT["plain"]
    bare = {name: value for name, value in plain.items() if name != "adam"}
    found = reshaped([bare], [[Segment("a", 0, 0, 4)]], [4])
    torch.testing.assert_close(found["masters"], [A[:4]], rtol=0, atol=0)
    assert found["adam"] == [{}]
