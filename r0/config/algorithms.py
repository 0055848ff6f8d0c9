"""The sections ``ppo`` and ``grpo``. Where papers disagree with each other, docs/algorithms.md says what was chosen."""

from __future__ import annotations

from typing import Any, Literal

from r0.config.sections import Section, key, rewriting
from r0.config.types import Count, CountFrom0, NonNegative, Positive, Share


class PPOSection(Section):
    """PPO (Schulman et al., 2017) with a critic."""

    num_ppo_epochs: Count = key(1, "passes over each batch")
    num_mini_batches: Count = key(1, "optimizer updates per pass")
    cliprange: Positive = key(0.2, "clip range ε of the probability ratio")
    cliprange_value: Positive = key(0.2, "clip range of the value around its old prediction")
    vf_coef: NonNegative = key(0.1, "weight of the value loss")
    gamma: Share = key(1.0, "discount γ of GAE")
    lam: Share = key(0.95, "λ of GAE")
    whiten_rewards: bool = key(False, "scale the per-token rewards to variance 1 before GAE")
    tis_cap: NonNegative | None = key(
        None,
        "cap of the importance weight learner/rollout of the policy loss (truncated importance sampling); 0: off; empty: 3 with "
        "sync.max_staleness=1, otherwise 0",
    )


def _as_published(values: dict[str, Any]) -> None:
    """Fill keys of GRPO whose defaults follow from other keys, so that the resolved configuration shows what is used."""
    gspo, in_reward = values.get("loss") == "gspo", values.get("kl_in") == "reward"
    defaults = {
        "clip_low": 3e-4 if gspo else 0.2,
        "clip_high": 4e-4 if gspo else 0.28,
        "denominator": "sequences" if gspo else "tokens",
        "kl_estimator": "k1" if in_reward else "k3",
    }
    for name, default in defaults.items():
        if values.get(name) is None:
            values[name] = default


class GRPOSection(Section):
    """GRPO (Shao et al., 2024) and its variants."""

    num_generations: Count = key(8, "completions sampled per prompt (G)")
    num_ppo_epochs: Count = key(1, "passes over each batch")
    num_mini_batches: Count = key(1, "optimizer updates per pass")
    advantage: Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_completions"] = key(
        "grpo",
        "advantage estimator; reinforce_pp is normalized over all tokens of the batch, reinforce_pp_completions over its "
        "completions",
    )
    loss: Literal["ppo_clip", "gspo", "cispo"] = key("ppo_clip", "policy loss; clips and denominator follow from it")
    clip_low: Positive = key(
        None, "lower clip of the probability ratio, at 1 − clip_low; empty: 3e-4 with loss=gspo, otherwise 0.2"
    )
    clip_high: Positive = key(
        None, "upper clip of the probability ratio, at 1 + clip_high; empty: 4e-4 with loss=gspo, otherwise 0.28"
    )
    denominator: Literal["tokens", "sequences"] = key(
        None,
        "loss aggregation: mean over all tokens, or mean of sequence means; empty: sequences with loss=gspo, otherwise tokens",
    )
    kl_estimator: Literal["k1", "k2", "k3"] = key(
        None,
        "estimator of the KL to the reference; empty: k1 with kl_in=reward, otherwise k3 (k1 in the loss has no mean gradient)",
    )
    kl_in: Literal["loss", "reward"] = key("loss", "whether kl_coef × KL is part of the loss or of the reward")
    tis_cap: NonNegative = key(3.0, "cap of the importance weight learner/rollout (truncated importance sampling); 0: off")
    refill_rounds: CountFrom0 = key(0, "maximum rounds of new prompts to replace groups with equal rewards")
    truncated: Literal["penalise", "mask", "keep"] = key(
        "penalise",
        "completions cut at max_new_tokens: penalise: the reward sees the cut and subtracts its missing_eos_penalty; "
        "mask: they give no gradient and count neither in the group's mean and spread nor in the denominator (DAPO's overlong "
        "filtering); keep: the reward judges them like any other",
    )

    _resolve = rewriting(_as_published)
