"""What a DeepSpeed engine of ``r0.actors.learner.zero`` holds on each rank: weights, gradients, float32 masters and moments.

Read from DeepSpeed 0.19 and compared with real engines on CPU tensors by tests/ray/test_memory_engines.py. T are the trained
weights, F the frozen ones, w is 2 (bf16) or 4 (float32), R the ranks. Gradients are summed in float32 whatever the weights are.

===========================  =========  =========  =======  =======  ==========================
bytes a rank                 weights    gradients  masters  moments  buckets of 50 M gradients
===========================  =========  =========  =======  =======  ==========================
ZeRO 0, float32              4 (T+F)    4 T        0        8 T      0
ZeRO 1, bf16 (and ZeRO 0)    2 (T+F)    4 T        4 T/R    8 T/R    0
ZeRO 1, float32              4 (T+F)    4 T        4 T/R    8 T/R    4 × 50 M
ZeRO 2                       w (T+F)    4 T/R      4 T/R    8 T/R    w × 50 M while computing
ZeRO 3                       w (T+F)/R  4 T/R      4 T/R    8 T/R    w × 50 M
===========================  =========  =========  =======  =======  ==========================

``learner.offload_optimizer`` (ZeRO 2 and 3) keeps gradients, masters and moments in the memory of the host, and there each
rank's share of the gradients once more; ZeRO 2 a copy of its share of the new weights too.
"""

from __future__ import annotations

from dataclasses import dataclass

BUCKET = 50_000_000  # gradients that ranks reduce at one time
ALLREDUCE = 500_000_000  # DeepSpeed's own bucket of ZeRO 0 and of ZeRO 1 in bf16, made in the step
LIVE = 1_000_000_000  # weights that ZeRO 3 keeps gathered (DeepSpeed's stage3_max_live_parameters)


def effective_stage(zero_stage: int, bf16: bool) -> int:
    """The ZeRO stage used: bf16 needs float32 master weights and sums, which DeepSpeed has from stage 1 on."""
    return max(1, zero_stage) if bf16 else zero_stage


@dataclass(frozen=True)
class States:
    """Bytes of one engine on one rank, from its second update on (the first one makes the moments).

    ``buckets`` hold gradients on their way to other ranks. ``gathered`` are weights of other ranks (ZeRO 3) while computing.
    ``step`` is made and freed in the optimizer's step, when no activations exist. ``host`` is on the CPU. ``sums_stay`` says
    whether the gradients' memory is kept between updates; ``moves`` whether masters and moments can go to the host meanwhile
    (``zero.offload_optimizer``).
    """

    weights: int
    gradients: int
    masters: int
    moments: int
    buckets: int
    gathered: int
    step: int
    host: int
    sums_stay: bool
    moves: bool

    @property
    def held(self) -> int:
        """On the card during an update, beside what passes."""
        return self.weights + self.gradients + self.masters + self.moments

    @property
    def start(self) -> int:
        """On the card before the first update, with what can be moved on the host."""
        return self.weights + (0 if self.moves else self.masters) + (self.gradients if self.sums_stay else 0)

    @property
    def rest(self) -> int:
        """On the card between updates, with what can be moved on the host."""
        return self.start + (0 if self.moves else self.moments)


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
    gathered = width * min(every, LIVE) if stage == 3 and ranks > 1 else 0
    whole_sums = stage == 0 or (stage == 1 and bf16)
    step = 4 * min(trained, ALLREDUCE) if whole_sums and ranks > 1 else 0
    if stage == 3 and not offload:  # AdamW is not fused there: one copy of the second moments
        step = 4 * min(share, LIVE)
    if offload:
        on_its_way = width * largest if stage == 2 else 0  # a gradient, on the card and on the host
        host = gradients + masters + moments + (4 + (width if stage == 2 else 0)) * share + on_its_way
        return States(weights, on_its_way, 0, 0, bucket, gathered, 0, host, sums_stay=True, moves=False)
    moves = stage == 2 or (stage == 1 and not bf16)
    return States(weights, gradients, masters, moments, bucket, gathered, step, 0, stage == 3 or (stage == 1 and bf16), moves)
