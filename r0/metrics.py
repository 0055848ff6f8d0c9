"""What a batch of judged rollouts says, as plain numbers: the same for training steps and held-out evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev

from r0.records import Answer, Finish, Scored
from r0.sampling import spread_groups


def rollout_metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """Figures of a batch, by name; a figure over an empty set is NaN, no rollouts give no figures.

    reward, reward_std       mean and standard deviation of the totals
    reward/<component>       mean of each component (0 where a rollout lacks it)
    accuracy                 share of all rollouts whose answer equals the label
    accuracy_answered        the same among rollouts with an answer (exactly one pair, its content in the closed set)
    accuracy_well_formed     the same among rollouts without any violation
    format_rate              share of rollouts with an answer
    well_formed_rate         share of rollouts without any violation
    yes_share                share of "yes" among rollouts with an answer
    constant_answer          accuracy of always giving the more frequent label
    think_tokens, completion_tokens, prompt_tokens   means
    tokens                   completion tokens of the batch, summed
    cut_share                share of completions that the token limit ended
    cut_prompt_share         share of rollouts whose document did not fit the prompt budget
    zero_spread_share        share of groups of at least two whose rewards are all equal (left out when there are no such groups)
    """
    if not scored:
        return {}
    totals = [one.total for one in scored]
    answered = [one for one in scored if one.verdict.answer is not None]
    well_formed = [one for one in scored if one.verdict.well_formed]
    relevant = fmean(one.rollout.task.label for one in scored)
    lengths = [len(one.rollout.sampled.token_ids) for one in scored]
    metrics = {
        "reward": fmean(totals),
        "reward_std": pstdev(totals),
        "accuracy": _mean([_correct(one) for one in scored]),
        "accuracy_answered": _mean([_correct(one) for one in answered]),
        "accuracy_well_formed": _mean([_correct(one) for one in well_formed]),
        "format_rate": len(answered) / len(scored),
        "well_formed_rate": len(well_formed) / len(scored),
        "yes_share": _mean([one.verdict.answer == Answer.YES for one in answered]),
        "constant_answer": max(relevant, 1.0 - relevant),
        "think_tokens": fmean(one.verdict.think_tokens for one in scored),
        "completion_tokens": fmean(lengths),
        "prompt_tokens": fmean(len(one.rollout.prompt.token_ids) for one in scored),
        "tokens": float(sum(lengths)),
        "cut_share": _mean([one.rollout.sampled.finish == Finish.LENGTH for one in scored]),
        "cut_prompt_share": _mean([one.rollout.prompt.cut_tokens > 0 for one in scored]),
    }
    for name in sorted({name for one in scored for name in one.components}):
        metrics[f"reward/{name}"] = fmean(one.components.get(name, 0.0) for one in scored)
    groups = len({one.rollout.group for one in scored})
    if len(scored) > groups:
        metrics["zero_spread_share"] = 1.0 - len(spread_groups(scored)) / groups
    return metrics


def _correct(one: Scored) -> bool:
    return one.verdict.answer == (Answer.YES if one.rollout.task.label else Answer.NO)


def _mean(values: Sequence[bool]) -> float:
    return fmean(values) if values else math.nan
