"""The fingerprint of weights: equal for the same tensors in any order and on any device, different for anything else."""

from __future__ import annotations

import pytest
import torch

from r0.actors.sync.digest import NOTHING, Digest, Noted
from tests.weight_source import ModelWeights


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (40, 30), "b": (5,), "empty": (0,), "one": (1,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def digest(weights: dict[str, torch.Tensor]) -> str:
    made = Digest()
    assert dict(made.through(weights.items())).keys() == weights.keys()
    return made.value()


def test_the_same_weights_have_the_same_digest_in_any_order():
    weights = tensors()
    assert digest(weights) == digest(dict(reversed(weights.items())))
    assert digest(weights).startswith("4-")
    assert digest({name: tensor.clone().T.contiguous().T for name, tensor in weights.items() if tensor.dim() == 2}).startswith(
        "1-"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w | {"a": w["a"] + 1e-6},
        lambda w: w | {"a": w["a"].bfloat16()},
        lambda w: w | {"a": w["a"].reshape(30, 40)},
        lambda w: w | {"a": torch.full_like(w["a"], torch.nan)},
        lambda w: {name: tensor for name, tensor in w.items() if name != "one"},
        lambda w: {"c" if name == "b" else name: tensor for name, tensor in w.items()},
    ],
    ids=["values", "type", "shape", "nan", "a tensor less", "name"],
)
def test_other_weights_have_another_digest(change):
    assert digest(change(tensors())) != digest(tensors())


def test_a_digest_begins_anew_when_it_is_taken():
    source = Noted(ModelWeights(torch.nn.Linear(3, 2)))
    assert source.digest.value() == NOTHING
    first = [(list(source), source.digest.take())[1] for _ in range(2)]
    assert first[0] == first[1] != NOTHING
    assert source.digest.value() == NOTHING
    next(iter(source))
    assert source.sent() == NOTHING  # only one of two was asked for
    source.digest.take()
    assert list(source)
    assert source.sent() == first[0]
    assert [each.name for each in source.metadata()] == ["weight", "bias"]
