"""The typed records that travel between the rooms, in the order in which a step makes them.

``Task → Prompt → SampleRequest → Sampled → Rollout → Scored``. All are frozen; token ids are tuples of ``int``. A task is one
document (``PointwiseTask``) or a list of them (``ListwiseTask``); its ``form`` says what the answer looks like, its ``label`` is
what the reward sees of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias


class Form(StrEnum):
    """What stands in ``<answer>…</answer>``."""

    YES_NO = "yes_no"  # one document: yes or no
    PERMUTATION = "permutation"  # an order over all documents, best first, ties allowed: [3] > [1] = [2]
    PICK = "pick"  # the single best document: [3]
    SCORES = "scores"  # JSON, a number from 0 to 10 for every document: {"1": 7, "2": 0, "3": 10}


class Answer(StrEnum):
    """The closed set of stage-A answers."""

    YES = "yes"
    NO = "no"


class Finish(StrEnum):
    """Why sampling ended."""

    STOP = "stop"  # the model wrote its end-of-sequence token
    LENGTH = "length"  # the token limit cut the completion


class Violation(StrEnum):
    """What is wrong with a completion, by name. A completion is well formed only without any."""

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
    BAD_ANSWER = "bad_answer"  # one answer pair, content outside the closed set or not of the asked form
    NOT_A_PERMUTATION = "not_a_permutation"  # an order was asked for, and the answer is none
    UNKNOWN_ID = "unknown_id"  # the answer names a document that is not in the list
    MISSING_ID = "missing_id"  # the answer leaves a document out
    REPEATED_ID = "repeated_id"  # the answer names a document twice
    CUT = "cut"  # ended by the token limit


@dataclass(frozen=True, slots=True)
class PointwiseTask:
    """One (query, document) pair to judge. ``task_id`` is the row's address: stable for one data set, whatever the order."""

    task_id: int
    query: str
    document: str
    label: int  # 1 relevant, 0 not
    think: str = ""  # a thought to imitate (warm start only)
    kind: str = ""  # how a built-in task was made (probes only); empty for other data

    @property
    def form(self) -> Form:
        """What the answer looks like."""
        return Form.YES_NO

    @property
    def size(self) -> int:
        """Number of documents."""
        return 1


@dataclass(frozen=True, slots=True)
class ListLabel:
    """What a ranking is judged by. N documents, numbered 0 to N − 1 as they are shown."""

    grades: tuple[float, ...]  # [N] graded relevance, 0 or less: not relevant
    given: tuple[int, ...]  # [N] the documents in the order of the first stage, best first: a permutation of 0…N−1
    threshold: float = 1.0  # grades of at least this are relevant

    @property
    def relevant(self) -> frozenset[int]:
        """The relevant documents."""
        return frozenset(i for i, grade in enumerate(self.grades) if grade >= self.threshold)


@dataclass(frozen=True, slots=True)
class ListwiseTask:
    """A query and N candidates to rank, in the order in which they are shown (shuffled: it says nothing about their labels)."""

    task_id: int
    query: str
    documents: tuple[str, ...]  # [N]
    label: ListLabel
    form: Form = Form.PERMUTATION
    think: str = ""  # a thought to imitate (warm start only)
    answer: str = ""  # what to imitate in the answer; empty: the best answer to the label
    kind: str = ""  # how a built-in task was made (probes only); empty for other data

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
    """One completion to sample. ``seed`` is a hash of (run seed, step, task, sample): it depends on nothing else."""

    prompt_ids: tuple[int, ...]
    seed: int
    allowed_ids: tuple[int, ...] = ()  # only these can be sampled, and log-probabilities are over these alone; empty: all


@dataclass(frozen=True, slots=True)
class Sampled:
    """What an engine returns for one request. ``logprobs`` [C] are of the sampled distribution (after temperature), in nats."""

    token_ids: tuple[int, ...]  # C ids, the end-of-sequence id included when finish is STOP
    logprobs: tuple[float, ...]
    finish: Finish
    version: int  # weight version it was sampled with
    allowed_logprobs: tuple[float, ...] = ()  # at the first token, of the request's allowed ids in their order


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled completion with its task. ``group`` numbers the prompts of a batch; ``sample`` the completions of a group."""

    task: Task
    group: int
    sample: int
    prompt: Prompt
    sampled: Sampled


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a completion says. Total: any ids and text give one. ``answer`` is set only when there is exactly one answer pair
    whose stripped content is in the closed set (for lists: is a whole answer of the asked form); ``think_tokens`` counts the
    sampled ids inside the first think pair."""

    answer: str | None
    think_tokens: int
    has_think: bool  # exactly one think pair, before the answer
    violations: frozenset[Violation] = field(default_factory=frozenset)
    # Lists only, and only with an answer. Documents are numbered from 0 as they are shown.
    ranking: tuple[tuple[int, ...], ...] | None = None  # groups of tied documents, best first; a pick is one group of one
    scores: tuple[float, ...] | None = None  # [N] the scores of Form.SCORES

    @property
    def well_formed(self) -> bool:
        """Whether nothing at all is wrong with it."""
        return not self.violations


@dataclass(frozen=True, slots=True)
class Scored:
    """A rollout, its text, its verdict and its reward components by name; ``total`` is their sum."""

    rollout: Rollout
    text: str  # the prefilled tag and the decoded completion, special tokens kept (but the end-of-sequence token)
    verdict: Verdict
    components: Mapping[str, float]
    total: float


@dataclass(frozen=True, slots=True)
class TrainCompletion:
    """One completion as the learner sees it. ``logprobs`` [C] are the rollout's, in nats."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reward: float
    version: int  # weight version it was sampled with


@dataclass(frozen=True, slots=True)
class TrainGroup:
    """A prompt with its completions: the unit that is dealt to learner ranks (a group is never split over ranks)."""

    prompt_ids: tuple[int, ...]
    completions: tuple[TrainCompletion, ...]
