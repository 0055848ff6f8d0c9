"""A rank's share of a batch on one token axis, and its mini-batches as rows.

Dimensions: N completions of the share, T their tokens, concatenated in the order (group, sample); C tokens of one row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from r0.actors.learner.comm import Comm
from r0.actors.learner.rows import Row, filler_row, padded_rows, shared_rows
from r0.errors import UserError
from r0.process.objects import fetch
from r0.records import Group, TrainGroup, UnreadGroup

Schedule = Sequence[Sequence[Sequence[int]]]
"""``schedule[epoch][mini_batch]`` is a list of indices into the rank's groups; every epoch contains every group once."""


class StaleRollout(RuntimeError):
    """A rollout was sampled with weights older than ``sync.max_staleness`` allows, or newer than the learner's."""


@dataclass(slots=True)
class Batch:
    """All completions of the rank. Fields that default to None are computed during the update."""

    groups: Sequence[TrainGroup]
    first: dict[tuple[int, int], int]  # (group, sample) → position of its first token
    seq_T: torch.Tensor
    rollout_T: torch.Tensor  # log-probabilities of the rollout
    fresh_T: torch.Tensor  # 1 if sampled with the learner's current weights, else 0
    reward_N: torch.Tensor
    group_N: torch.Tensor
    old_T: torch.Tensor | None = None
    ref_T: torch.Tensor | None = None
    value_T: torch.Tensor | None = None
    advantage_T: torch.Tensor | None = None
    return_T: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """A row, the positions ``at_C`` of its completion tokens on the T axis, and their completion ``seq_C`` within the row."""

    row: Row
    at_C: torch.Tensor
    seq_C: torch.Tensor

    @property
    def completions(self) -> int:
        """Completions of the row; 0 in a filler row."""
        return len(self.row.items)


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """The rank's rows of one optimizer update, with filler rows so that all ranks have equally many, and at least one.

    The counts are those of all ranks, including what is skipped (see ``TrainGroup``).
    """

    slices: list[Slice]
    tokens: int
    completions: int


def read_groups(groups: Sequence[Group]) -> list[TrainGroup]:
    """The groups with their tokens.

    Raises:
        ObjectsLost: some are gone with the machine that held them.
    """
    unread = [group for group in groups if isinstance(group, UnreadGroup)]
    found = iter(fetch([group.completions for group in unread]))
    return [group.read(next(found)) if isinstance(group, UnreadGroup) else group for group in groups]


def check_scores(groups: Sequence[UnreadGroup], version: int, max_staleness: int) -> None:
    """Check a batch before any rank starts on it: if one rank failed, the others would wait in a collective.

    Raises:
        StaleRollout: a completion's weight version is not in [version − max_staleness, version].
        UserError: a reward or a log-probability is NaN or infinite.
    """
    for g, group in enumerate(groups):
        for sample, score in zip(group.samples, group.scores, strict=True):
            _check_version(score.version, version, max_staleness)
            _check_values(g, sample, score.total, score.odd_logprob)


def check_groups(groups: Sequence[TrainGroup], version: int, max_staleness: int) -> None:
    """Check the share of a rank.

    Raises:
        StaleRollout: a completion's weight version is not in [version − max_staleness, version].
        UserError: a reward or a log-probability is NaN or infinite.
        ValueError: a completion has different numbers of tokens and log-probabilities.
    """
    for g, group in enumerate(groups):
        for s, completion in enumerate(group.completions):
            _check_version(completion.version, version, max_staleness)
            length = len(completion.token_ids)
            if len(completion.logprobs) != length:
                raise ValueError(f"group {g}, sample {s}: {length} tokens but {len(completion.logprobs)} log-probabilities")
            odd = next((value for value in completion.logprobs if not math.isfinite(value)), None)
            _check_values(g, s, completion.reward, odd)


def make_batch(groups: Sequence[TrainGroup], version: int, max_staleness: int, device: torch.device) -> Batch:
    """The batch of a share. Raises the errors of ``check_groups``."""
    check_groups(groups, version, max_staleness)
    first: dict[tuple[int, int], int] = {}
    lengths: list[int] = []
    rollout: list[float] = []
    fresh: list[bool] = []
    rewards: list[float] = []
    group_numbers: list[int] = []
    for g, group in enumerate(groups):
        for s, completion in enumerate(group.completions):
            first[g, s] = len(rollout)
            lengths.append(len(completion.token_ids))
            rollout += completion.logprobs
            fresh.append(completion.version == version)
            rewards.append(completion.reward)
            group_numbers.append(g)
    seq_T = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.long))
    return Batch(
        groups,
        first,
        seq_T.to(device),
        torch.tensor(rollout, dtype=torch.float32, device=device),
        torch.tensor(fresh, dtype=torch.float32)[seq_T].to(device),
        torch.tensor(rewards, dtype=torch.float32, device=device),
        torch.tensor(group_numbers, dtype=torch.long, device=device),
    )


def _check_values(group: int, sample: int, reward: float, odd_logprob: float | None) -> None:
    if not math.isfinite(reward):
        raise UserError(f"group {group}, sample {sample} has reward {reward}; a reward must return finite numbers")
    if odd_logprob is not None:
        said = f"the engine gave a log-probability of {odd_logprob}; its weights are broken"
        raise UserError(f"group {group}, sample {sample}: {said}")


def _check_version(sampled: int, version: int, max_staleness: int) -> None:
    if not 0 <= version - sampled <= max_staleness:
        raise StaleRollout(
            f"a rollout was sampled with weight version {sampled}, the learner is at version {version} and "
            f"sync.max_staleness={max_staleness}; the weights were not synced, or sampling runs too far ahead"
        )


def make_minibatches(batch: Batch, schedule: Schedule, shared: bool, row_tokens: int, comm: Comm) -> list[list[MiniBatch]]:
    """Rows of every mini-batch of every epoch. Collective: ranks agree on the number of rows and the denominators."""
    built: dict[tuple[int, ...], list[Slice]] = {}
    plan: list[list[list[Slice]]] = []
    counts: list[list[int]] = []
    for epoch in schedule:
        plan.append([])
        for picked in epoch:
            chosen = tuple(sorted(picked))
            if chosen not in built:  # with one mini-batch per epoch, the rows of all epochs are the same
                built[chosen] = _slices(batch, chosen, shared, row_tokens, comm.device)
            plan[-1].append(built[chosen])
            members = [batch.groups[g] for g in chosen]
            tokens = sum(g.skipped_tokens + sum(len(c.token_ids) for c in g.completions) for g in members)
            completions = sum(g.skipped_completions + len(g.completions) for g in members)
            counts.append([tokens, completions, len(built[chosen])])
    count_M3 = torch.tensor(counts, dtype=torch.long).reshape(-1, 3)
    totals = comm.sum(count_M3[:, :2]).tolist()
    rows = comm.max(count_M3[:, 2]).clamp(min=1).tolist()  # an optimizer steps after a backward pass only
    filler = _filler(shared, comm.device)
    numbered = iter(zip(totals, rows, strict=True))
    result: list[list[MiniBatch]] = []
    for epoch_slices in plan:
        result.append([])
        for slices in epoch_slices:
            (tokens, completions), most = next(numbered)
            result[-1].append(MiniBatch(slices + [filler] * (most - len(slices)), tokens, completions))
    return result


def _filler(shared: bool, device: torch.device) -> Slice:
    none = torch.zeros(0, dtype=torch.long, device=device)
    return Slice(filler_row(shared, device), none, none)


def _slices(batch: Batch, chosen: tuple[int, ...], shared: bool, row_tokens: int, device: torch.device) -> list[Slice]:
    """Rows of the ``chosen`` groups, longest first, so that ranks compute rows of similar length at the same time."""
    make = shared_rows if shared else padded_rows
    slices = []
    for row in sorted(make([batch.groups[g] for g in chosen], row_tokens, device), key=lambda row: -row.tokens):
        items = [(chosen[g], s) for g, s in row.items]
        lengths = [len(batch.groups[g].completions[s].token_ids) for g, s in items]
        starts = [batch.first[item] for item in items]
        at = [t for start, length in zip(starts, lengths, strict=True) for t in range(start, start + length)]
        seq_C = torch.arange(len(items)).repeat_interleave(torch.tensor(lengths, dtype=torch.long))
        slices.append(Slice(row, torch.tensor(at, dtype=torch.long, device=device), seq_C.to(device)))
    return slices
