"""Metrics of a batch of scored rollouts; the same for training steps and held-out evaluation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import fmean, pstdev, stdev

from r0.ranking import groups_of_order, ndcg
from r0.records import Answer, Finish, ListwiseTask, ScoredGroup, Task, Verdict
from r0.sampling import has_spread

CUTOFF = 10  # of the reported nDCG; independent of the reward's cutoff


def rollout_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Metrics of a batch, by name. A metric over an empty set is NaN; without rollouts there are no metrics.

    reward, reward_std       mean and standard deviation of the totals
    reward/<component>       mean of each component (0 if a rollout lacks it)
    format_rate              share of rollouts with an answer
    well_formed_rate         share of rollouts without any violation
    think_tokens, completion_tokens, prompt_tokens   means
    tokens                   completion tokens of the batch, summed
    cut_share                share of completions cut at the token limit
    cut_prompt_share         share of rollouts whose documents did not fit the prompt budget
    zero_spread_share        share of groups of at least two whose rewards are all equal, without masked completions (omitted if
                             there are no such groups)

    A batch is all pairs or all lists. Pairs (one document):

    accuracy                 share of all rollouts whose answer equals the label
    accuracy_answered        the same among rollouts with an answer (exactly one pair, its content in the closed set)
    accuracy_well_formed     the same among rollouts without any violation
    yes_share                share of "yes" among rollouts with an answer
    constant_answer          accuracy of always giving the more frequent label

    Lists; documents that an answer does not name follow in first-stage order, as at inference:

    ndcg@10                  mean nDCG@10; a rollout without an answer counts as the first-stage ("given") order
    ndcg@10_answered         the same among rollouts with an answer
    ndcg@10_well_formed      the same among rollouts without any violation
    ndcg@10_given            mean nDCG@10 of the given order, for the same tasks
    ndcg@10_given_well_formed   the same for the tasks of the rollouts without any violation
    ndcg@10_gain             ndcg@10 − ndcg@10_given
    ndcg@10_gain_p           p of a two-sided paired t-test of that gain, over the means of the tasks
    violation/<name>         share of rollouts with that violation (omitted if 0)
    """
    scored = [score for group in groups for score in group.scores]
    if not scored:
        return {}
    totals = [one.total for one in scored]
    answered = [one for one in scored if one.verdict.answer is not None]
    well_formed = [one for one in scored if one.verdict.well_formed]
    prompts = [group.prompt for group in groups for _ in group.scores]
    judge = _ranked if isinstance(groups[0].task, ListwiseTask) else _judged
    metrics = {
        "reward": fmean(totals),
        "reward_std": pstdev(totals),
        "format_rate": len(answered) / len(scored),
        "well_formed_rate": len(well_formed) / len(scored),
        **judge(groups),
        "think_tokens": fmean(one.verdict.think_tokens for one in scored),
        "completion_tokens": fmean(one.tokens for one in scored),
        "prompt_tokens": fmean(len(one.token_ids) for one in prompts),
        "tokens": float(sum(one.tokens for one in scored)),
        "cut_share": _mean(one.finish == Finish.LENGTH for one in scored),
        "cut_prompt_share": _mean(one.cut_tokens > 0 for one in prompts),
    }
    for name in sorted({name for one in scored for name in one.components}):
        metrics[f"reward/{name}"] = fmean(one.components.get(name, 0.0) for one in scored)
    if len(scored) > len(groups):
        metrics["zero_spread_share"] = 1.0 - sum(map(has_spread, groups)) / len(groups)
    return metrics


def _judged(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Metrics of pairs."""
    scored = [(score.verdict, group.task.label) for group in groups for score in group.scores]
    right = [(verdict, verdict.answer == (Answer.YES if label else Answer.NO)) for verdict, label in scored]
    relevant = fmean(bool(label) for _, label in scored)
    return {
        "accuracy": _mean(hit for _, hit in right),
        "accuracy_answered": _mean(hit for verdict, hit in right if verdict.answer is not None),
        "accuracy_well_formed": _mean(hit for verdict, hit in right if verdict.well_formed),
        "yes_share": _mean(verdict.answer == Answer.YES for verdict, _ in right if verdict.answer is not None),
        "constant_answer": max(relevant, 1.0 - relevant),
    }


def _ranked(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Metrics of lists."""
    by_group = [[(one, *ndcgs(group.task, one.verdict)) for one in group.scores] for group in groups]
    figures = list(chain.from_iterable(by_group))
    mean, given = _mean(found for _, found, _ in figures), _mean(before for _, _, before in figures)
    gains = [fmean(found - before for _, found, before in group) for group in by_group]
    violations = Counter(chain.from_iterable(one.verdict.violations for one, _, _ in figures))
    return {
        f"ndcg@{CUTOFF}": mean,
        f"ndcg@{CUTOFF}_answered": _mean(found for one, found, _ in figures if one.verdict.answer is not None),
        f"ndcg@{CUTOFF}_well_formed": _mean(found for one, found, _ in figures if one.verdict.well_formed),
        f"ndcg@{CUTOFF}_given": given,
        f"ndcg@{CUTOFF}_given_well_formed": _mean(before for one, _, before in figures if one.verdict.well_formed),
        f"ndcg@{CUTOFF}_gain": mean - given,
        f"ndcg@{CUTOFF}_gain_p": paired_p(gains),
        **{f"violation/{name}": count / len(figures) for name, count in sorted(violations.items())},
    }


def ndcgs(task: Task, verdict: Verdict) -> tuple[float, float]:
    """nDCG of a rollout's ranking, and of the first-stage order (rules: ``rollout_metrics``)."""
    if not isinstance(task, ListwiseTask):
        raise TypeError(f"task {task.task_id} is not a list, but others of its batch are")
    label, answered = task.label, verdict.ranking or ()
    named = frozenset(chain.from_iterable(answered))
    rest = groups_of_order(document for document in label.given if document not in named)
    given = ndcg(label.grades, groups_of_order(label.given), CUTOFF)
    return ndcg(label.grades, (*answered, *rest), CUTOFF) if answered else given, given


def paired_p(differences: Sequence[float]) -> float:
    """p-value of a two-sided paired t-test; NaN for fewer than two differences, 1 if all are 0."""
    from scipy.special import stdtr  # imported here, because reading a run's rollouts needs nothing else of scipy

    if len(differences) < 2:
        return math.nan
    mean, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
    if not error:
        return 0.0 if mean else 1.0
    return 2.0 * float(stdtr(len(differences) - 1, -abs(mean) / error))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return fmean(found) if found else math.nan
