"""A reward worker: sampled ids → text, verdict and named components, in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from r0.config.sections import RewardBase
from r0.process.spans import Traced, span
from r0.records import Completions, Prompt, Sampled, Score, ScoredGroup, Task, Verdict
from r0.rewards import make_reward
from r0.rewards.checked import CheckedReward, RewardFailed
from r0.rewards.token_limit import OVERLONG, TokenLimit
from r0.storage.rollout_lines import packed
from r0.text.completion import CompletionReader


@dataclass(frozen=True, slots=True)
class Failed:
    """A completion that the reward could not score. ``score`` has no components; ``reason`` continues "the reward …"."""

    score: Score
    reason: str

    def scored(self, value: float) -> Score:
        """The completion with the total ``value``."""
        return replace(self.score, components={"failure": value}, total=value)


Scores: TypeAlias = tuple[list[Score | Failed], tuple[str, ...]]
"""The outcomes of some completions, and their texts."""


class RewardWorker(Traced):
    """Scores completions. A plain class; as a Ray actor it is one process.

    Args:
        tokenizer: a transformers tokenizer. It is loaded elsewhere (``load_tokenizer``): to unpickle one does not import
            torch, which is most of a worker's start.
        section: name and settings of the reward.
        eos_token_ids: additional ids that end a sequence.
        limit: what the token limit means for a score.

    Raises:
        UserError: ``section.name`` is not the name of a reward.
    """

    def __init__(self, tokenizer: Any, section: RewardBase, eos_token_ids: Iterable[int] = (), limit: TokenLimit | None = None):
        self._reward, self._limit = CheckedReward(make_reward(section)), limit or TokenLimit()
        self._reader = CompletionReader(tokenizer, eos_token_ids)

    def ping(self) -> bool:
        """Return once the worker is ready."""
        return True

    def score(self, task: Task, prompt: Prompt, completions: Completions, samples: Sequence[int] | None = None) -> Scores:
        """Outcome and text of each completion of a prompt, in order; of ``samples`` only, where they are given."""
        sampled = completions.sampled()
        chosen = sampled if samples is None else [sampled[i] for i in samples]
        with span("reward", "score", completions=len(chosen)):
            found = [self._score(task, prompt, one) for one in chosen]
        return [outcome for outcome, _ in found], tuple(text for _, text in found)

    def fail(self, task: Task, prompt: Prompt, completions: Completions, sample: int, reason: str) -> Scores:
        """The outcome of a completion for which ``score`` did not return; the reward is not called."""
        one = completions.sampled()[sample]
        text, verdict = self._read(task, prompt, one)
        return [self._failed(one, verdict, reason)], (text,)

    def packed(self, step: int, group: ScoredGroup, prompt_text: str) -> tuple[int, bytes]:
        """The stored rollouts of a group; their size comes first."""
        with span("reward", "pack", completions=len(group.scores)):
            content = packed(step, group, prompt_text)
        return len(content), content

    def _score(self, task: Task, prompt: Prompt, one: Sampled) -> tuple[Score | Failed, str]:
        text, verdict = self._read(task, prompt, one)
        added = self._limit.components(len(one.token_ids))
        try:
            components, total = self._reward(self._limit.seen(verdict), task.label)
        except RewardFailed as failed:
            return self._failed(one, verdict, str(failed)), text
        if added:
            if not added.keys().isdisjoint(components):
                return self._failed(one, verdict, f"returned {OVERLONG}, which reward.overlong_tokens adds"), text
            components |= added
            total = math.fsum(components.values())
        return Score.of(one, verdict, components, total, self._limit.masks(verdict)), text

    def _failed(self, one: Sampled, verdict: Verdict, reason: str) -> Failed:
        return Failed(Score.of(one, verdict, {}, math.nan, self._limit.masks(verdict)), reason)

    def _read(self, task: Task, prompt: Prompt, one: Sampled) -> tuple[str, Verdict]:
        return self._reader.read(one.token_ids, prompt.prefix, one.finish, task.form, task.size)


def load_tokenizer(path: str) -> tuple[Any, list[int]]:
    """The tokenizer of a model (a folder or a Hub name), and the end-of-sequence ids of the model's generation configuration."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(path)
    try:
        ends = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:  # the model has none
        ends = None
    return tokenizer, [ends] if isinstance(ends, int) else list(ends or ())
