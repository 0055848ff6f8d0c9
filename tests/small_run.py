"""The keys of a small run of stage A, with which faults are tried."""

SMALL: dict[str, object] = {
    "batch_size": 4, "max_steps": 3, "builtin_rows": 80, "heldout_share": 0.2, "max_prompt_tokens": 400, "max_new_tokens": 8,
    "learning_rate": 1e-3, "temperature": 1.0, "eval.every": 0, "checkpoint.every": 1, "checkpoint.keep": 3,
    "system_prompt": "Judge.", "reward.max_think_tokens": 100, "max_think_tokens": 100, "reward.min_think_tokens": 1,
    "rollout.engine": "hf",
}  # fmt: skip
PPO_INLINE = {**SMALL, "algo": "ppo", "ray.inline": "true"}
