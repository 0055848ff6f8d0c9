"""One learner update: passes without gradient, advantages, then PPO or GRPO steps over mini-batches of rows.

Dimensions: N completions of the rank's share, T their tokens, C tokens of one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from r0.actors.learner.batch import Batch, MiniBatch, Schedule, Slice, make_batch, make_minibatches
from r0.actors.learner.batch_fault import BatchFault, Pass, in_rows, in_tokens
from r0.actors.learner.comm import Comm
from r0.actors.learner.gradients import LIMIT, drop_gradients
from r0.actors.learner.metrics import UpdateMetrics
from r0.actors.learner.networks import Networks
from r0.actors.learner.policy import run_row
from r0.algos.advantages import ADVANTAGES, reinforce_pp
from r0.algos.gae import gae, token_rewards
from r0.algos.kl import KL_ESTIMATORS, k1, kl_penalised
from r0.algos.losses import POLICY_LOSSES, Aggregation, LossInputs, LossSettings
from r0.algos.value import ValueInputs, value_loss
from r0.config import GRPOSection, PPOSection, RLConfig
from r0.process.faults import reached
from r0.process.spans import span
from r0.records import TrainGroup


class Left(Exception):
    """The update is not wanted any more; no weight was changed by it."""


def loss_settings(config: RLConfig) -> LossSettings:
    """The constants of the loss, from the section of ``algo``."""
    section = config.section
    if isinstance(section, PPOSection):  # the KL is in the reward
        return LossSettings(clip_low=section.cliprange, clip_high=section.cliprange, tis_cap=section.tis_cap or 0.0)
    return LossSettings(
        clip_low=section.clip_low,
        clip_high=section.clip_high,
        aggregation=Aggregation(section.denominator),
        kl_coef=config.kl_coef if section.kl_in == "loss" else 0.0,
        kl_estimator=section.kl_estimator,
        tis_cap=section.tis_cap,
    )


class Updater:
    """PPO and GRPO on a rank's networks.

    Args:
        config: the run's configuration.
        networks: engines and reference of this rank.
        comm: the ranks.
        left: whether the update is not wanted any more; looked at between rows until the first weight changes.
    """

    def __init__(self, config: RLConfig, networks: Networks, comm: Comm, left: Callable[[], bool] = lambda: False):
        self.config = config
        self.section = config.section
        self.networks = networks
        self.comm = comm
        self.left = left
        self._changed = False
        self.settings = loss_settings(config)
        name = self.section.loss if isinstance(self.section, GRPOSection) else "ppo_clip"
        self.policy_loss = POLICY_LOSSES[name]
        self.fault = BatchFault()

    def __call__(self, groups: Sequence[TrainGroup], version: int, schedule: Schedule) -> dict[str, float]:
        """Update on this rank's groups; collective. Returns metrics over all ranks (the same on each).

        A NaN or an infinity in what the networks give, in the loss or in a gradient keeps all ranks from the optimizer update
        that it would go into. ``skipped_updates`` counts them, ``fault`` says more. With ``on_nan=stop`` no update follows.

        Raises:
            StaleRollout: see ``make_batch``.
            Left: the update is not wanted any more, before it changed anything.
        """
        config = self.config
        self._changed = False
        batch = make_batch(groups, version, config.sync.max_staleness, self.comm.device)
        plan = make_minibatches(batch, schedule, self.networks.shared_prefix, config.learner.row_tokens, self.comm)
        metrics = UpdateMetrics(self.comm.device, stale=config.sync.max_staleness > 0)
        self.fault = BatchFault()
        with span("learner", "first passes"):
            self._first_passes(batch, plan)
        updates = [(epoch, mini) for epoch, minis in enumerate(plan) for mini in minis]
        skipped = 0
        if self._usable(batch):
            self._advantages(batch)
            for epoch, mini in updates:
                skipped += not self._step(batch, mini, metrics, first=epoch == 0)
                if skipped and config.on_nan == "stop":
                    break
        else:
            skipped = len(updates)
        metrics.count([part.row for mini in plan[0] for part in mini.slices if part.completions], groups)
        found = metrics.reduce(self.comm, self.section, reference=config.kl_coef > 0)
        return found | {"skipped_updates": float(skipped)}

    # Without gradient -------------------------------------------------------------------------------------------------------

    def _first_passes(self, batch: Batch, plan: list[list[MiniBatch]]) -> None:
        """Compute old and reference log-probabilities and old values, if they are needed."""
        slices = [part for mini in plan[0] for part in mini.slices]
        updates = sum(len(minis) for minis in plan)
        kl_in_reward = self.config.kl_coef > 0 and self.settings.kl_coef == 0
        if updates > 1 or kl_in_reward:
            batch.old_T = self._pass(self.networks.policy, slices, batch)
        if self.config.kl_coef > 0:
            with self.networks.reference() as reference:
                batch.ref_T = self._pass(reference, slices, batch)
        if self.networks.critic is not None:
            batch.value_T = self._pass(self.networks.critic, slices, batch)

    def _pass(self, module: Any, slices: list[Slice], batch: Batch) -> torch.Tensor:
        """A network's first output at every token [T], without gradient."""
        out_T = torch.zeros_like(batch.rollout_T)
        module.eval()
        with torch.no_grad():
            for part in slices:
                self._leave_if_asked()
                out = run_row(module, part.row)
                if part.completions:
                    out_T[part.at_C] = out[0] if isinstance(out, tuple) else out
        return out_T

    def _usable(self, batch: Batch) -> bool:
        """Whether the first passes gave finite values, on all ranks."""
        known = [values_T for values_T in (batch.old_T, batch.ref_T, batch.value_T) if values_T is not None]
        if not known:
            return True
        bad_T = ~torch.stack(known).isfinite().all(dim=0)
        if not float(self.comm.sum(bad_T.sum())):
            return True
        self.fault = in_tokens("the networks' first passes are NaN or infinite", batch, bad_T.nonzero()[:, 0])
        return False

    def _advantages(self, batch: Batch) -> None:
        """Fill ``advantage_T`` (and ``return_T`` for the critic) from rewards, KL and values."""
        section, reduce = self.section, self.comm.sum
        if isinstance(section, PPOSection):
            if batch.value_T is None:
                raise RuntimeError("PPO without a critic")
            kl_T = k1(batch.old_T, batch.ref_T) if batch.old_T is not None and batch.ref_T is not None else None
            reward_T = token_rewards(batch.reward_N, kl_T, batch.seq_T, self.config.kl_coef)
            found = gae(
                reward_T,
                batch.value_T,
                batch.seq_T,
                section.gamma,
                section.lam,
                whiten_rewards=section.whiten_rewards,
                reduce=reduce,
            )
            batch.advantage_T, batch.return_T = found.advantage_T, found.return_T
            return
        reward_N, kl_T = batch.reward_N, None
        if batch.ref_T is not None and section.kl_in == "reward" and batch.old_T is not None:
            kl_T = KL_ESTIMATORS[self.settings.kl_estimator](batch.old_T, batch.ref_T)
        if section.advantage == "reinforce_pp":
            reward_T = token_rewards(reward_N, kl_T, batch.seq_T, self.config.kl_coef)
            batch.advantage_T = reinforce_pp(reward_T, batch.seq_T, reduce)
            return
        if kl_T is not None:
            reward_N = kl_penalised(reward_N, kl_T, batch.seq_T, self.config.kl_coef)
        batch.advantage_T = ADVANTAGES[section.advantage](reward_N, batch.group_N, reduce)[batch.seq_T]

    # With gradient ----------------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, mini: MiniBatch, metrics: UpdateMetrics, first: bool) -> bool:
        """One optimizer update of the policy, and of the critic; false if it was not made, and nothing changed."""
        engines = [engine for engine in (self.networks.policy, self.networks.critic) if engine is not None]
        metrics.begin()
        passes: list[Pass] = []
        holding: dict[Any, None] = {}  # engines with gradients
        for engine in engines:
            engine.train()
            for part in mini.slices:
                self._leave_if_asked(*holding)
                with span("learner", "forward", tokens=part.row.tokens, completions=part.completions):
                    if engine is self.networks.policy:
                        loss, out_C = self._policy_row(batch, mini, part, metrics, first)
                    else:
                        loss, out_C = self._value_row(batch, mini, part, metrics)
                with span("learner", "backward", tokens=part.row.tokens):
                    engine.backward(loss * self.comm.world)
                holding[engine] = None
                passes.append(Pass(part, loss.detach(), out_C.detach(), engine.gradient_sum.take(self.comm.device)))
        total = torch.zeros(2, dtype=torch.float64, device=self.comm.device)
        for row in passes:
            total += torch.stack([row.loss, row.gradients])
        loss_sum, gradient_sum = self.comm.sum(total).tolist()
        if not (math.isfinite(loss_sum) and gradient_sum <= LIMIT):  # not so for NaN either
            metrics.undo()
            reason = "a gradient is NaN or infinite" if math.isfinite(loss_sum) else f"the loss is {loss_sum}"
            self.fault |= in_rows(reason, batch, passes)
            for engine in engines:
                drop_gradients(engine)
            return False
        reached("learner.step")
        self._changed = True
        with span("learner", "optimizer step"):
            for engine in engines:
                engine.step()
        norms = [float(engine.get_global_grad_norm()) for engine in engines]
        if not all(map(math.isfinite, norms)):  # it was seen in no gradient
            raise RuntimeError(f"the gradient norms are {norms}; the weights may be broken, the last checkpoint is good")
        metrics.step(loss_sum, *norms)
        return True

    def _leave_if_asked(self, *holding: Any) -> None:
        """All ranks together, which have equally many rows. Engines that hold gradients drop them, for an update to come."""
        if not self._changed and float(self.comm.max(torch.tensor(float(self.left())))):
            for engine in holding:
                drop_gradients(engine)
            raise Left

    def _policy_row(
        self, batch: Batch, mini: MiniBatch, part: Slice, metrics: UpdateMetrics, first: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of a row, and the log-probabilities of its tokens."""
        logp_C, entropy_C = run_row(self.networks.policy, part.row)
        if not part.completions:
            return logp_C.sum() * 0.0, logp_C
        at = part.at_C
        if batch.advantage_T is None:
            raise RuntimeError("the update has no advantages yet")
        inputs = LossInputs(
            logp_T=logp_C,
            advantage_T=batch.advantage_T[at],
            seq_T=part.seq_C,
            completions=part.completions,
            denominator=mini.tokens if self.settings.aggregation is Aggregation.TOKENS else mini.completions,
            old_logp_T=None if batch.old_T is None else batch.old_T[at],
            rollout_logp_T=batch.rollout_T[at],
            ref_logp_T=None if batch.ref_T is None else batch.ref_T[at],
        )
        outputs = self.policy_loss(inputs, self.settings)
        metrics.policy(outputs.sums, logp_C.detach(), entropy_C, inputs, batch.fresh_T[at] if first else None)
        return outputs.loss, logp_C

    def _value_row(self, batch: Batch, mini: MiniBatch, part: Slice, metrics: UpdateMetrics) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of a row, and the values of its tokens."""
        value_C = run_row(self.networks.critic, part.row)
        if not part.completions:
            return value_C.sum() * 0.0, value_C
        if batch.value_T is None or batch.return_T is None or not isinstance(self.section, PPOSection):
            raise RuntimeError("the update has no values yet")
        at = part.at_C
        inputs = ValueInputs(value_C, batch.value_T[at], batch.return_T[at], part.seq_C, part.completions, mini.tokens)
        loss, sums = value_loss(inputs, self.section.cliprange_value)
        metrics.values(sums)
        return loss * self.section.vf_coef, value_C
