"""What the limit of a completion's tokens means for its score. A reward itself sees neither lengths nor the limit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from r0.config import GRPOSection, RLConfig
from r0.records import Verdict, Violation

OVERLONG = "overlong"  # the name of the component


@dataclass(frozen=True, slots=True)
class TokenLimit:
    """The keys ``max_new_tokens``, ``grpo.truncated``, ``reward.overlong_tokens`` and ``reward.overlong_penalty``."""

    max_new_tokens: int = 0
    truncated: Literal["penalise", "mask", "keep"] = "penalise"
    overlong_tokens: int = 0
    overlong_penalty: float = 1.0

    @classmethod
    def of(cls, config: RLConfig) -> TokenLimit:
        """The rules of a run."""
        section, reward = config.section, config.reward
        truncated = section.truncated if isinstance(section, GRPOSection) else "penalise"
        return cls(config.max_new_tokens, truncated, reward.overlong_tokens, reward.overlong_penalty)

    def seen(self, verdict: Verdict) -> Verdict:
        """The verdict that the reward judges: with ``keep`` it does not see that the completion was cut."""
        if self.truncated != "keep" or Violation.CUT not in verdict.violations:
            return verdict
        return replace(verdict, violations=verdict.violations - {Violation.CUT})

    def masks(self, verdict: Verdict) -> bool:
        """Whether the completion is left out of learning."""
        return self.truncated == "mask" and Violation.CUT in verdict.violations

    def components(self, tokens: int) -> dict[str, float]:
        """The soft overlong punishment (Yu et al., 2025, DAPO, eq. 13) of a completion of some tokens; none if it is off.

        It is 0 up to ``max_new_tokens − overlong_tokens`` tokens, and falls from there to ``−overlong_penalty`` at the limit.
        """
        if not self.overlong_tokens:
            return {}
        over = max(0, tokens - (self.max_new_tokens - self.overlong_tokens)) / self.overlong_tokens
        return {OVERLONG: 0.0 - self.overlong_penalty * min(1.0, over)}  # 0.0 - x instead of -x: no penalty is 0.0, not -0.0
