"""Weights that are no numbers are refused, but not what DeepSpeed fills a rank's part up with."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from r0.errors import UserError
from r0.storage.loading import check_finite
from r0.supervised.training.finite import check_figures


def split(values: list[float], whole: int) -> torch.nn.Module:
    """A layer whose weight ZeRO-3 has split: this rank's part, of ``whole`` numbers in all."""
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.ds_tensor, layer.weight.ds_numel = torch.tensor(values), whole
    return layer


@pytest.mark.parametrize(
    ("rank", "values", "whole", "sound"),
    [
        (0, [1.0, 2.0], 3, True),
        (1, [3.0, math.nan], 3, True),  # the fourth number is nobody's
        (1, [math.inf], 1, True),
        (0, [math.nan, 1.0], 3, False),
        (1, [math.nan, 1.0], 3, False),
    ],
)
def test_of_a_split_weight_a_rank_looks_at_its_own_numbers(monkeypatch, rank, values, whole, sound):
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    if sound:
        check_finite(split(values, whole), Path("folder"))
        return
    with pytest.raises(UserError, match="weight of folder contains NaN or infinite values; give a sound copy of the model"):
        check_finite(split(values, whole), Path("folder"))


def test_figures_of_heldout_rows_that_are_no_numbers_end_a_run_with_the_remedy():
    check_figures(3, [0.0, -1e300])
    for bad in (math.nan, math.inf):
        with pytest.raises(UserError, match=r"^step 3: what the model says of .* NaN or infinite; set a lower learning_rate"):
            check_figures(3, [0.5, bad])
        with pytest.raises(UserError, match=r"^step 0: .*; give another model, or dtype=fp32$"):
            check_figures(0, [bad])


def test_a_whole_weight_is_looked_at_to_its_end():
    layer = torch.nn.Linear(2, 1)
    check_finite(layer, Path("folder"))
    with torch.no_grad():
        layer.bias[0] = math.nan
    with pytest.raises(UserError, match="bias of folder"):
        check_finite(layer, Path("folder"))
