"""Paired two-sided significance tests over queries: Student's t, and Fisher's randomization of signs.

Smucker, Allan & Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval Evaluation" (CIKM
2007): both are valid for means over queries, and agree closely.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import stats

_RESAMPLES = 9_999
_SEED = 42  # reproducible tables
_BATCH_VALUES = 2_000_000
_NOTHING = 1e-12  # differences of measures in 0…1 below this are rounding


def p_value(values_Q: np.ndarray, others_Q: np.ndarray, test: Literal["t", "permutation"]) -> float | None:
    """The p-value of the mean paired difference, under the hypothesis that both sides are exchangeable for each query.

    ``values_Q`` and ``others_Q`` are [queries], paired. Returns 1 if no query differs, None for fewer than two queries.
    """
    difference_Q = values_Q - others_Q
    if len(difference_Q) < 2:
        return None
    if np.abs(difference_Q).max() < _NOTHING:
        return 1.0
    if test == "permutation":
        return float(
            stats.permutation_test(
                (difference_Q,),
                _mean,
                permutation_type="samples",
                vectorized=True,
                n_resamples=_RESAMPLES,
                batch=max(1, _BATCH_VALUES // len(difference_Q)),
                rng=np.random.default_rng(_SEED),
            ).pvalue
        )
    if np.ptp(difference_Q) < _NOTHING:  # the same difference for every query: t is infinite
        return 0.0
    return float(stats.ttest_1samp(difference_Q, 0.0).pvalue)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis=axis)
