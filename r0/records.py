"""The typed records passed between the packages, in the order in which a step creates them.

``Task → Prompt → SampleRequest → Sampled → Completions → Score → ScoredGroup → UnreadGroup → TrainGroup``. All are frozen;
token ids are tuples of ``int``, and arrays where they travel. A task is one document (``PointwiseTask``) or a list of documents
(``ListwiseTask``). Its ``form`` is the form of the answer, its ``label`` is the part that the reward sees.

Tokens, log-probabilities and texts go from worker to worker; the driver holds their ``Address`` (``r0.process.objects``).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate, chain, pairwise
from typing import Any, TypeAlias

Address: TypeAlias = Any
"""Where a value is: a Ray reference, or the value itself."""

SPREAD_TOLERANCE = 1e-6
"""Rewards of one group that differ by at most this are equal: for refilling groups and for their advantages alike."""


class Form(StrEnum):
    """The form of the answer: the content of ``<answer>…</answer>``."""

    YES_NO = "yes_no"  # one document: yes or no
    PERMUTATION = "permutation"  # an order over all documents, best first, ties allowed: [3] > [1] = [2]
    PICK = "pick"  # the single best document: [3]
    SCORES = "scores"  # JSON, a number from 0 to 10 for every document: {"1": 7, "2": 0, "3": 10}


class Answer(StrEnum):
    """The possible answers about one document."""

    YES = "yes"
    NO = "no"


class Finish(StrEnum):
    """Why sampling ended."""

    STOP = "stop"  # the model sampled its end-of-sequence token
    LENGTH = "length"  # the token limit was reached


class Violation(StrEnum):
    """What is wrong with a completion. A completion is well formed if it has no violation."""

    NO_THINK = "no_think"  # no think pair
    UNCLOSED_THINK = "unclosed_think"  # <think> without </think>
    REPEATED_THINK = "repeated_think"  # a think tag occurs more than once
    NO_ANSWER = "no_answer"  # no answer pair at all
    UNCLOSED_ANSWER = "unclosed_answer"  # <answer> without </answer>, or the reverse
    REPEATED_ANSWER = "repeated_answer"  # an answer tag occurs more than once
    ORDER = "order"  # tags nested, reversed, or the answer before the thought
    TEXT_BEFORE = "text_before"  # text before <think>
    TEXT_BETWEEN = "text_between"  # text between </think> and <answer>
    EXTRA_TEXT = "extra_text"  # text after the last </answer>
    BAD_ANSWER = "bad_answer"  # one answer pair, but its content is not of the requested form
    NOT_A_PERMUTATION = "not_a_permutation"  # a permutation was requested, but the answer is not one
    UNKNOWN_ID = "unknown_id"  # the answer names a document that is not in the list
    MISSING_ID = "missing_id"  # the answer leaves a document out
    REPEATED_ID = "repeated_id"  # the answer names a document twice
    CUT = "cut"  # cut at the token limit


@dataclass(frozen=True, slots=True)
class PointwiseTask:
    """One (query, document) pair to judge. ``task_id`` is the row's address in its data set, independent of the order of
    training.
    """

    task_id: int
    query: str
    document: str
    label: int  # 1 relevant, 0 not
    think: str = ""  # target thought (warm start only)
    kind: str = ""  # how a built-in task was generated (probes only); empty for other data

    @property
    def form(self) -> Form:
        """The form of the answer."""
        return Form.YES_NO

    @property
    def size(self) -> int:
        """Number of documents."""
        return 1


@dataclass(frozen=True, slots=True)
class ListLabel:
    """The labels of a list. Its N documents are numbered 0 to N − 1 in the order shown."""

    grades: tuple[float, ...]  # [N] graded relevance; 0 or less means not relevant
    given: tuple[int, ...]  # [N] the documents in first-stage order, best first: a permutation of 0…N−1
    threshold: float = 1.0  # grades of at least this are relevant

    @property
    def relevant(self) -> frozenset[int]:
        """The relevant documents."""
        return frozenset(i for i, grade in enumerate(self.grades) if grade >= self.threshold)


@dataclass(frozen=True, slots=True)
class ListwiseTask:
    """A query and N candidates to rank, in the order shown (shuffled, so that the order says nothing about the labels)."""

    task_id: int
    query: str
    documents: tuple[str, ...]  # [N]
    label: ListLabel
    form: Form = Form.PERMUTATION
    think: str = ""  # target thought (warm start only)
    answer: str = ""  # target answer; empty: the best answer to the label
    kind: str = ""  # how a built-in task was generated (probes only); empty for other data

    @property
    def size(self) -> int:
        """Number of documents."""
        return len(self.documents)


Task: TypeAlias = PointwiseTask | ListwiseTask


@dataclass(frozen=True, slots=True)
class Prompt:
    """A task as token ids. ``prefix`` is the text of a tag that the chat template already opened: ``"<think>"`` or ``""``."""

    token_ids: tuple[int, ...]
    prefix: str = ""
    cut_tokens: int = 0  # document tokens that did not fit the budget


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One completion to sample. ``seed`` is a hash of (run seed, step, task, sample) and depends on nothing else."""

    prompt_ids: tuple[int, ...]
    seed: int
    allowed_ids: tuple[int, ...] = ()  # restricts sampling and the log-probabilities to these ids; empty: no restriction


@dataclass(frozen=True, slots=True)
class Sampled:
    """The result of one request. ``logprobs`` [C] are those of the sampling distribution (after temperature), in nats."""

    token_ids: tuple[int, ...]  # [C], including the end-of-sequence id if finish is STOP
    logprobs: tuple[float, ...]
    finish: Finish
    version: int  # weight version it was sampled with
    allowed_logprobs: tuple[float, ...] = ()  # of the request's allowed ids, in their order, at the first token


@dataclass(frozen=True, slots=True)
class Completions:
    """The G completions of one prompt as they travel between processes: T tokens, one completion after another."""

    token_ids: array[int]  # [T] of 32 bits
    logprobs: array[float]  # [T] float32, as engines compute them
    lengths: tuple[int, ...]  # [G]
    finish: tuple[Finish, ...]  # [G]
    version: int  # weight version of all of them
    allowed_logprobs: tuple[tuple[float, ...], ...]  # [G], as in ``Sampled``

    @classmethod
    def of(cls, sampled: Sequence[Sampled]) -> Completions:
        """Those of one prompt, in the order of their samples.

        Raises:
            ValueError: one has different numbers of tokens and log-probabilities.
        """
        for s, one in enumerate(sampled):
            if len(one.token_ids) != len(one.logprobs):
                raise ValueError(f"completion {s}: {len(one.token_ids)} tokens, but {len(one.logprobs)} log-probabilities")
        return cls(
            array("i", chain.from_iterable(one.token_ids for one in sampled)),
            array("f", chain.from_iterable(one.logprobs for one in sampled)),
            tuple(len(one.token_ids) for one in sampled),
            tuple(one.finish for one in sampled),
            sampled[0].version,
            tuple(one.allowed_logprobs for one in sampled),
        )

    def sampled(self) -> list[Sampled]:
        """Each completion by itself."""
        spans = pairwise(accumulate(self.lengths, initial=0))
        return [
            Sampled(tuple(self.token_ids[start:end]), tuple(self.logprobs[start:end]), finish, self.version, allowed)
            for (start, end), finish, allowed in zip(spans, self.finish, self.allowed_logprobs, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled completion and its task. ``group`` is the index of the prompt in the batch, ``sample`` that of the completion in
    the group.
    """

    task: Task
    group: int
    sample: int
    prompt: Prompt
    sampled: Sampled


@dataclass(frozen=True, slots=True)
class Verdict:
    """The parsed content of a completion. Any ids and text have one. ``answer`` is set only if there is exactly one answer pair
    and its stripped content is a complete answer of the requested form. ``think_tokens`` is the number of sampled ids inside
    the first think pair.
    """

    answer: str | None
    think_tokens: int
    has_think: bool  # exactly one think pair, before the answer
    violations: frozenset[Violation] = field(default_factory=frozenset)
    # Lists only, and only if there is an answer. Documents are numbered from 0 in the order shown.
    ranking: tuple[tuple[int, ...], ...] | None = None  # groups of tied documents, best first; a pick is one group of one
    scores: tuple[float, ...] | None = None  # [N], for Form.SCORES

    @property
    def well_formed(self) -> bool:
        """Whether the completion has no violation."""
        return not self.violations


@dataclass(frozen=True, slots=True)
class Score:
    """What the driver knows of a completion: sizes, verdict, named reward components and ``total``, their sum. A ``masked`` one
    is not learned from."""

    tokens: int  # C
    finish: Finish
    version: int
    verdict: Verdict
    components: Mapping[str, float]
    total: float
    masked: bool = False
    odd_logprob: float | None = None  # the first log-probability that is not finite

    @classmethod
    def of(cls, sampled: Sampled, verdict: Verdict, components: Mapping[str, float], total: float, masked: bool = False) -> Score:
        """That of ``sampled``."""
        odd = None if all(map(math.isfinite, sampled.logprobs)) else next(x for x in sampled.logprobs if not math.isfinite(x))
        return cls(len(sampled.token_ids), sampled.finish, sampled.version, verdict, components, total, masked, odd)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A prompt whose G completions are scored, as the driver holds it. ``group`` is the index of the prompt in the batch."""

    task: Task
    group: int
    prompt: Prompt
    scores: tuple[Score, ...]  # [G]
    completions: Address  # of the ``Completions``
    texts: Address  # of a tuple of G texts, those of ``Scored``


@dataclass(frozen=True, slots=True)
class Scored:
    """A scored rollout with its text, as it is stored."""

    rollout: Rollout
    text: str  # the prefilled tag and the decoded completion, with special tokens except the end-of-sequence token
    verdict: Verdict
    components: Mapping[str, float]
    total: float
    masked: bool = False


@dataclass(frozen=True, slots=True)
class TrainCompletion:
    """One completion for the learner. ``logprobs`` [C] are those of the rollout, in nats."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reward: float
    version: int  # weight version it was sampled with


@dataclass(frozen=True, slots=True)
class TrainGroup:
    """A prompt and its completions. Groups are distributed to learner ranks; a group is never split between ranks.

    ``skipped_tokens`` and ``skipped_completions`` have no gradient and are not computed, but the loss's denominators count them.
    """

    prompt_ids: tuple[int, ...]
    completions: tuple[TrainCompletion, ...]
    skipped_tokens: int = 0
    skipped_completions: int = 0

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion."""
        return [len(one.token_ids) for one in self.completions]

    @property
    def rewards(self) -> list[float]:
        """The reward of each completion."""
        return [one.reward for one in self.completions]


@dataclass(frozen=True, slots=True)
class UnreadGroup:
    """A ``TrainGroup`` as the driver distributes it: the rank that it goes to reads its tokens."""

    prompt_ids: tuple[int, ...]
    completions: Address
    samples: tuple[int, ...]  # those that are learned from
    scores: tuple[Score, ...]  # of ``samples``
    skipped_tokens: int = 0
    skipped_completions: int = 0

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion."""
        return [one.tokens for one in self.scores]

    @property
    def rewards(self) -> list[float]:
        """The reward of each completion."""
        return [one.total for one in self.scores]

    def read(self, completions: Completions) -> TrainGroup:
        """The group with its tokens."""
        sampled = completions.sampled()
        members = [(sampled[i], score) for i, score in zip(self.samples, self.scores, strict=True)]
        whole = tuple(TrainCompletion(one.token_ids, one.logprobs, score.total, score.version) for one, score in members)
        return TrainGroup(self.prompt_ids, whole, self.skipped_tokens, self.skipped_completions)


Group: TypeAlias = TrainGroup | UnreadGroup
