"""Model states of a DeepSpeed engine (``r0.actors.learner.zero``) on each rank: weights, gradients, float32 masters, moments.

The formulas follow DeepSpeed 0.19; tests/ray/test_memory_engines.py compares them with real engines on CPU tensors. T is the
number of trained weights, F of frozen ones, w is 2 (bf16) or 4 (float32), R the number of ranks. Gradients accumulate in float32
in either dtype.

===========================  =========  =========  =======  =======  ==========================
bytes per rank               weights    gradients  masters  moments  buckets of 50 M gradients
===========================  =========  =========  =======  =======  ==========================
ZeRO 0, float32              4 (T+F)    4 T        0        8 T      0
ZeRO 1, bf16 (and ZeRO 0)    2 (T+F)    4 T        4 T/R    8 T/R    0
ZeRO 1, float32              4 (T+F)    4 T        4 T/R    8 T/R    4 × 50 M
ZeRO 2                       w (T+F)    4 T/R      4 T/R    8 T/R    w × 50 M while computing
ZeRO 3                       w (T+F)/R  4 T/R      4 T/R    8 T/R    w × 50 M
===========================  =========  =========  =======  =======  ==========================

``learner.offload_optimizer`` (ZeRO 2 and 3) keeps gradients, masters and moments in host memory, plus a second copy of each
rank's share of the gradients and, with ZeRO 2, a copy of its share of the new weights.
"""

from __future__ import annotations

from dataclasses import dataclass

BUCKET = 50_000_000  # gradients that ranks reduce at a time
ALLREDUCE = 500_000_000  # DeepSpeed's bucket in the step of ZeRO 0, and of ZeRO 1 in bf16
MAX_LIVE = 1_000_000_000  # weights that ZeRO 3 keeps gathered (DeepSpeed's stage3_max_live_parameters)


def effective_stage(zero_stage: int, bf16: bool) -> int:
    """The ZeRO stage used: bf16 needs float32 master weights and gradients, which DeepSpeed has from stage 1 on."""
    return max(1, zero_stage) if bf16 else zero_stage


@dataclass(frozen=True)
class States:
    """Bytes of one engine on one rank, from its second update on (the first update allocates the moments).

    ``buckets`` hold gradients that are sent to other ranks. ``gathered`` are weights of other ranks during computation (ZeRO 3).
    ``step`` is allocated and freed in the optimizer's step, when no activations exist. ``host`` is in host memory.
    ``keeps_gradients``: the gradients' memory stays allocated between updates. ``offloadable``: masters and moments can be moved
    to the host between updates (``zero.offload_optimizer``).
    """

    weights: int
    gradients: int
    masters: int
    moments: int
    buckets: int
    gathered: int
    step: int
    host: int
    keeps_gradients: bool
    offloadable: bool

    @property
    def held(self) -> int:
        """On the card throughout an update, without temporary tensors."""
        return self.weights + self.gradients + self.masters + self.moments

    @property
    def start(self) -> int:
        """On the card before the first update, with offloadable states on the host."""
        return self.weights + (0 if self.offloadable else self.masters) + (self.gradients if self.keeps_gradients else 0)

    @property
    def idle(self) -> int:
        """On the card between updates, with offloadable states on the host."""
        return self.start + (0 if self.offloadable else self.moments)


def states(trained: int, frozen: int, zero_stage: int, ranks: int, bf16: bool, offload: bool = False, largest: int = 0) -> States:
    """Bytes of an engine.

    Args:
        trained, frozen: weights with and without a gradient.
        zero_stage: as configured; see ``effective_stage``.
        ranks: of the group.
        bf16: weights in bf16, else in float32.
        offload: optimizer on the CPU; needs ZeRO 2 or 3.
        largest: weights of the largest trained tensor.
    """
    stage, width = effective_stage(zero_stage, bf16), 2 if bf16 else 4
    share = -(-trained // ranks)
    every = trained + frozen
    weights = width * (-(-every // ranks) if stage == 3 else every)
    gradients = 4 * (share if stage >= 2 else trained)
    masters = 4 * share if stage else 0
    moments = 8 * (share if stage else trained)
    bucket = width * BUCKET if stage >= 2 or (stage == 1 and not bf16) else 0
    gathered = width * min(every, MAX_LIVE) if stage == 3 and ranks > 1 else 0
    whole_sums = stage == 0 or (stage == 1 and bf16)
    step = 4 * min(trained, ALLREDUCE) if whole_sums and ranks > 1 else 0
    if stage == 3 and not offload:  # AdamW is not fused in ZeRO 3 and copies the second moments
        step = 4 * min(share, MAX_LIVE)
    if offload:
        in_transit = width * largest if stage == 2 else 0  # a gradient, on the card and on the host
        host = gradients + masters + moments + (4 + (width if stage == 2 else 0)) * share + in_transit
        return States(weights, in_transit, 0, 0, bucket, gathered, 0, host, keeps_gradients=True, offloadable=False)
    offloadable = stage == 2 or (stage == 1 and not bf16)
    return States(
        weights, gradients, masters, moments, bucket, gathered, step, 0, stage == 3 or (stage == 1 and bf16), offloadable
    )
