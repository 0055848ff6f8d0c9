"""The metrics of one learner update, summed over rows, steps and ranks."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from r0.actors.learner.comm import Comm
from r0.actors.learner.rows import Row
from r0.algos.kl import MAX_LOG_RATIO
from r0.algos.losses import LossInputs
from r0.algos.sums import PolicySums, ValueSums
from r0.config import GRPOSection, PPOSection
from r0.records import TrainGroup


class UpdateMetrics:
    """Sums of an update; ``reduce`` turns them into metrics.

    Args:
        device: of the sums; reading them is deferred to the end of a step, so that no row causes a synchronization.
        stale: whether rollouts may be of older weights; then the spread of the importance ratio is a metric too.
    """

    def __init__(self, device: torch.device, stale: bool = False):
        self.device = device
        self.sums = PolicySums.zero(device)
        self.value_sums = ValueSums.zero(device)
        self.entropy = torch.zeros((), dtype=torch.float64, device=device)
        self.gap = torch.zeros(2, dtype=torch.float64, device=device)  # sum and count over fresh tokens of the first epoch
        self.largest = torch.zeros(2, dtype=torch.float64, device=device)  # ratio, gap
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.critic_norms: list[float] = []
        self.counts = torch.zeros(3, dtype=torch.float64)
        self.spread = RatioSpread(device) if stale else None

    def policy(
        self, sums: PolicySums, logp_C: torch.Tensor, entropy_C: torch.Tensor, inputs: LossInputs, fresh_C: torch.Tensor | None
    ) -> None:
        """Add a row of the policy. ``fresh_C`` [C] is 1 where rollout and learner weights are equal; None after epoch 1."""
        self.sums = self.sums + sums
        self.entropy += entropy_C.sum()
        ratio = (logp_C - inputs.old_logp_T).exp().max() if inputs.old_logp_T is not None and len(logp_C) else logp_C.new_ones(())
        self.largest[0] = torch.maximum(self.largest[0], ratio.double())
        if fresh_C is not None and inputs.rollout_logp_T is not None and len(logp_C):
            old_C = logp_C if inputs.old_logp_T is None else inputs.old_logp_T
            gap_C = (old_C - inputs.rollout_logp_T).abs() * fresh_C
            self.gap += torch.stack([gap_C.sum(), fresh_C.sum()])
            self.largest[1] = torch.maximum(self.largest[1], gap_C.max().double())
            if self.spread is not None:
                self.spread.add(old_C.detach(), inputs.rollout_logp_T)

    def values(self, sums: ValueSums) -> None:
        """Add a row of the critic."""
        self.value_sums = self.value_sums + sums

    def begin(self) -> None:
        """An optimizer update begins: ``undo`` goes back to here."""
        self._before = copy.deepcopy({name: value for name, value in vars(self).items() if name != "_before"})

    def undo(self) -> None:
        """Forget the rows of an update that was not made."""
        vars(self).update(self._before)

    def step(self, loss: float, grad_norm: float, critic_norm: float | None = None) -> None:
        """Add an optimizer update: its loss over all ranks, and the gradient norms before clipping."""
        self.losses.append(loss)
        self.norms.append(grad_norm)
        if critic_norm is not None:
            self.critic_norms.append(critic_norm)

    def count(self, rows: Sequence[Row], groups: Sequence[TrainGroup]) -> None:
        """Add this rank's share of one pass over the batch; a group without completions is skipped."""
        skipped = sum(not group.completions for group in groups)
        self.counts += torch.tensor([len(rows), sum(row.tokens for row in rows), skipped], dtype=torch.float64)

    def reduce(self, comm: Comm, section: PPOSection | GRPOSection, reference: bool) -> dict[str, float]:
        """All metrics of the update, over all ranks and steps; collective. Only counts if no step was made.

        What needs log-probabilities is of the groups that were computed, and left out if they have no tokens.
        """
        sums = self.sums.reduced(comm.sum)
        rest = comm.sum(torch.cat([self.gap.cpu(), self.entropy.cpu()[None], self.counts]))
        ratio_max, gap_max = comm.max(self.largest).tolist()
        gap, fresh, entropy, rows, row_tokens, skipped_groups = rest.tolist()
        means = sums.means()
        counts = {"rows": rows, "row_tokens": row_tokens}
        if isinstance(section, GRPOSection):
            counts["skipped_groups"] = skipped_groups
        if not self.losses:
            return counts
        if not float(sums.tokens):
            return {"loss": _mean(self.losses), "grad_norm": _mean(self.norms), **counts}
        found = {
            "loss": _mean(self.losses),
            "policy_loss": float(sums.objective) / len(self.losses),
            "policy_kl": means["policy_kl"],
            "entropy": entropy / max(float(sums.tokens), 1.0),
            "ratio_mean": means["ratio"],
            "ratio_max": ratio_max,
            "clip_share": means["clip_share"],
            "tis_mean": means["tis_weight"],
            "tis_capped_share": means["tis_capped_share"],
            "gap": gap / max(fresh, 1.0),
            "gap_max": gap_max,
            "grad_norm": _mean(self.norms),
            **counts,
        }
        if reference:
            found["kl"] = means["kl"]
        if self.spread is not None:
            found |= self.spread.reduce(comm)
            if not fresh:  # the policies differ, and their gap says nothing about the engines
                del found["gap"], found["gap_max"]
        if isinstance(section, PPOSection):
            values = self.value_sums.reduced(comm.sum).means()
            found |= values | {"critic_grad_norm": _mean(self.critic_norms)}
        return found


class RatioSpread:
    """Mean, standard deviation and maximum of the importance ratio learner/rollout over the tokens of a batch, before its cap."""

    def __init__(self, device: torch.device):
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # tokens, ratio, ratio²
        self._largest = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, learner_C: torch.Tensor, rollout_C: torch.Tensor) -> None:
        """Add a row: log-probabilities [C] by the learner before the update, and by the engine that sampled."""
        ratio_C = (learner_C - rollout_C).double().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        self._sums += torch.stack([torch.ones_like(ratio_C).sum(), ratio_C.sum(), ratio_C.square().sum()])
        self._largest = torch.maximum(self._largest, ratio_C.max())

    def reduce(self, comm: Comm) -> dict[str, float]:
        """The metrics over all ranks; collective."""
        tokens, total, squares = comm.sum(self._sums).tolist()
        count = max(tokens, 1.0)
        mean = total / count
        return {
            "importance_mean": mean,
            "importance_std": max(squares / count - mean**2, 0.0) ** 0.5,
            "importance_max": float(comm.max(self._largest)),
        }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
