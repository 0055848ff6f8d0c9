"""How the ranks of a fine-tuning share its validation."""

from __future__ import annotations

import pytest

from r0.supervised.training.validation import batches_of_rank


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("micro", [1, 2, 32])
def test_ranks_compute_batches_of_one_length_and_every_example_once(world: int, micro: int) -> None:
    for count in range(70):
        ranks = [batches_of_rank(count, micro, rank, world) for rank in range(world)]
        for batches in zip(*ranks, strict=True):
            assert len({len(places) for places, _ in batches}) == 1
        counted = [place for batches in ranks for places, dummy in batches if not dummy for place in places]
        assert sorted(counted) == list(range(count))
        assert all(0 < len(places) <= micro for batches in ranks for places, _ in batches)
