"""Random ragged batches for the tests of r0/algos, as plain Python lists beside their flat tensors."""

from __future__ import annotations

import random

import torch

SEEDS = range(25)
Ragged = list[list[float]]


def lengths(rng: random.Random, most_completions: int = 6, most_tokens: int = 9) -> list[int]:
    return [rng.randint(1, most_tokens) for _ in range(rng.randint(1, most_completions))]


def ragged(rng: random.Random, sizes: list[int], centre: float = 0.0, width: float = 1.0) -> Ragged:
    return [[rng.gauss(centre, width) for _ in range(size)] for size in sizes]


def flat(rows: Ragged, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor([x for row in rows for x in row], dtype=dtype)


def seq(rows: Ragged) -> torch.Tensor:
    return torch.tensor([i for i, row in enumerate(rows) for _ in row], dtype=torch.int64)


def close(got: torch.Tensor, want: object, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), rtol=tolerance, atol=tolerance)
