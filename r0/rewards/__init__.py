"""Verdict and label → named reward components. Pure functions: no tokenizer, no actors, no files."""

from r0.rewards import stage_a as _stage_a  # importing them registers the rewards
from r0.rewards import stage_b as _stage_b
from r0.rewards.registry import Reward, RewardFactory, check_reward, make_reward, register, reward_names

__all__ = ["Reward", "RewardFactory", "check_reward", "make_reward", "register", "reward_names"]

del _stage_a, _stage_b
