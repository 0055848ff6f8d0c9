"""What happens to a batch with NaN or infinities: it is kept on disk, and the run stops or goes on without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from r0.errors import UserError
from r0.records import ScoredGroup
from r0.runs.recorder import Recorder

IN_A_ROW = 3  # steps that may be skipped one after another: beyond, something is wrong with the weights and not with a batch
NAMED = 8  # samples in a message


class BatchFault(Protocol):
    """What the learner says of a batch that it could not use."""

    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def samples(self) -> Sequence[tuple[int, int]]: ...  # noqa: D102


class BadBatches:
    """Decides about the bad batches of one run.

    Args:
        on_nan: see ``RLConfig.on_nan``.
        recorder: keeps them.
    """

    def __init__(self, on_nan: Literal["stop", "skip"], recorder: Recorder):
        self._skip, self._recorder = on_nan == "skip", recorder
        self._in_a_row = 0

    def check_logprobs(self, step: int, groups: Sequence[ScoredGroup]) -> None:
        """Refuse rollouts whose log-probabilities are not finite: no difference to the learner's can be measured.

        Raises:
            UserError: names the first sample and the file of the batch.
        """
        for group in groups:
            for sample, score in enumerate(group.scores):
                if score.odd_logprob is not None:
                    path = self._recorder.keep_bad(step, groups)
                    raise UserError(
                        f"step {step}: the engine gave {_name(group, sample)} a log-probability of {score.odd_logprob}, so its "
                        f"weights are broken; no weight was changed; the batch is in {path}; the last checkpoint is good"
                    )

    def check_update(self, step: int, groups: Sequence[ScoredGroup], skipped: float, fault: Callable[[], BatchFault]) -> None:
        """Keep the batch of an update that was skipped.

        Args:
            step: counted from 1.
            groups: the batch.
            skipped: optimizer updates that were skipped.
            fault: asks the learner; called only if updates were skipped.

        Raises:
            UserError: the run has to stop.
        """
        if not skipped:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        found, path = fault(), self._recorder.keep_bad(step, groups)
        said = f"step {step}: {found.reason}{_whose(groups, found.samples)}; no weight was changed by it; the batch is in {path}"
        if not self._skip:
            raise UserError(f"{said}; set a lower learning_rate, or on_nan=skip to go on without it")
        if self._in_a_row > IN_A_ROW:
            raise UserError(f"{said}; {IN_A_ROW} steps in a row were skipped before it; set a lower learning_rate")
        self._recorder.say(f"{said}; skipped (on_nan=skip)")


def _whose(groups: Sequence[ScoredGroup], samples: Sequence[tuple[int, int]]) -> str:
    """The samples in words; they are (place of the group in the batch, place in the group without masked ones)."""
    members = [[sample for sample, score in enumerate(group.scores) if not score.masked] for group in groups]
    named = [_name(groups[g], members[g][s]) for g, s in samples[:NAMED]]
    more = f" and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
    return f" ({', '.join(named)}{more})" if named else ""


def _name(group: ScoredGroup, sample: int) -> str:
    return f"task {group.task.task_id} sample {sample}"
