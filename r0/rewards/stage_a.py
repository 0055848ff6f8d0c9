"""Stage A's reward of a yes/no verdict: the sum of eight components.

* ``format``: one answer pair whose stripped content is exactly yes or no. ``accuracy``: besides, the answer equals the label.
* ``thinking``: besides the format, a thought of ``min_think_tokens`` to ``max_think_tokens``. ``length``: a penalty in
  proportion to the share by which a thought exceeds ``max_think_tokens``, whatever the answer.
* ``extra_text``, ``tags``, ``answer``, ``eos``: penalties, each once, for text after the answer; for missing, repeated or
  misplaced tags, or text before or between them; in addition for no answer pair at all; for a cut at the token limit.
"""

from __future__ import annotations

from r0.config.sections import RewardSection
from r0.records import Answer, Verdict, Violation
from r0.rewards.registry import register

COMPONENTS = ("format", "accuracy", "thinking", "length", "extra_text", "tags", "answer", "eos")

# Violations that cost `invalid_tag_penalty`, once: a missing, repeated, nested or misordered pair; text before or between pairs.
TAG_VIOLATIONS = frozenset(
    {
        Violation.NO_THINK,
        Violation.UNCLOSED_THINK,
        Violation.REPEATED_THINK,
        Violation.NO_ANSWER,
        Violation.UNCLOSED_ANSWER,
        Violation.REPEATED_ANSWER,
        Violation.ORDER,
        Violation.TEXT_BEFORE,
        Violation.TEXT_BETWEEN,
    }
)
# Defaults if the section leaves them empty (the launcher fills in both from the top level of the configuration).
DEFAULT_MAX_THINK_TOKENS = 200
DEFAULT_MISSING_EOS_PENALTY = 0.0


@register("stage_a", RewardSection)
class StageAReward:
    """Returns all of ``COMPONENTS`` for a verdict and a label (1 relevant, 0 not); penalties are negative or 0.0."""

    def __init__(self, section: RewardSection):
        self._section = section
        most, eos = section.max_think_tokens, section.missing_eos_penalty
        self._max_think = DEFAULT_MAX_THINK_TOKENS if most is None else most
        self._eos_penalty = DEFAULT_MISSING_EOS_PENALTY if eos is None else eos

    def __call__(self, verdict: Verdict, label: int) -> dict[str, float]:
        """The components; their sum is the reward."""
        section, wrong, tokens = self._section, verdict.violations, verdict.think_tokens
        format_holds = verdict.answer is not None
        correct = format_holds and verdict.answer == (Answer.YES if label > 0 else Answer.NO)
        thought = format_holds and verdict.has_think and section.min_think_tokens <= tokens <= self._max_think
        over = max(0, tokens - self._max_think) / self._max_think
        # 0.0 - x instead of -x, so that no penalty is 0.0 and not -0.0.
        return {
            "format": section.format_weight if format_holds else 0.0,
            "accuracy": section.acc_weight if correct else 0.0,
            "thinking": section.think_bonus if thought else 0.0,
            "length": 0.0 - section.length_penalty * over,
            "extra_text": 0.0 - section.extra_text_penalty if Violation.EXTRA_TEXT in wrong else 0.0,
            "tags": 0.0 - section.invalid_tag_penalty if not wrong.isdisjoint(TAG_VIOLATIONS) else 0.0,
            "answer": 0.0 - section.missing_answer_penalty if Violation.NO_ANSWER in wrong else 0.0,
            "eos": 0.0 - self._eos_penalty if Violation.CUT in wrong else 0.0,
        }
