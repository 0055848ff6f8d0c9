"""The typed records that travel between the rooms, in the order in which a step makes them.

``PointwiseTask → Prompt → SampleRequest → Sampled → Rollout → Scored``. All are frozen; token ids are tuples of ``int``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


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
    BAD_ANSWER = "bad_answer"  # one answer pair, content outside the closed set
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


@dataclass(frozen=True, slots=True)
class Sampled:
    """What an engine returns for one request. ``logprobs`` [C] are of the sampled distribution (after temperature), in nats."""

    token_ids: tuple[int, ...]  # C ids, the end-of-sequence id included when finish is STOP
    logprobs: tuple[float, ...]
    finish: Finish
    version: int  # weight version it was sampled with


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled completion with its task. ``group`` numbers the prompts of a batch; ``sample`` the completions of a group."""

    task: PointwiseTask
    group: int
    sample: int
    prompt: Prompt
    sampled: Sampled


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a completion says. Total: any ids and text give one. ``answer`` is set only when there is exactly one answer pair
    whose stripped content is in the closed set; ``think_tokens`` counts the sampled ids inside the first think pair."""

    answer: str | None
    think_tokens: int
    has_think: bool  # exactly one think pair, before the answer
    violations: frozenset[Violation] = field(default_factory=frozenset)

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
