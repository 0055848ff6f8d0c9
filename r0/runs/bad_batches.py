"""What happens to a batch with NaN or infinities: it is kept on disk, and the run stops or goes on without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from r0.errors import UserError
from r0.records import Scored
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

    def check_logprobs(self, step: int, scored: Sequence[Scored]) -> None:
        """Refuse rollouts whose log-probabilities are not finite: no difference to the learner's can be measured.

        Raises:
            UserError: names the first sample and the file of the batch.
        """
        for one in scored:
            for value in one.rollout.sampled.logprobs:
                if not math.isfinite(value):
                    path = self._recorder.keep_bad(step, scored)
                    raise UserError(
                        f"step {step}: the engine gave {_name(one)} a log-probability of {value}, so its weights are broken; "
                        f"no weight was changed; the batch is in {path}; the last checkpoint is good"
                    )

    def check_update(self, step: int, scored: Sequence[Scored], skipped: float, fault: Callable[[], BatchFault]) -> None:
        """Keep the batch of an update that was skipped.

        Args:
            step: counted from 1.
            scored: the batch.
            skipped: optimizer updates that were skipped.
            fault: asks the learner; called only if updates were skipped.

        Raises:
            UserError: the run has to stop.
        """
        if not skipped:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        found, path = fault(), self._recorder.keep_bad(step, scored)
        said = f"step {step}: {found.reason}{_whose(scored, found.samples)}; no weight was changed by it; the batch is in {path}"
        if not self._skip:
            raise UserError(f"{said}; set a lower learning_rate, or on_nan=skip to go on without it")
        if self._in_a_row > IN_A_ROW:
            raise UserError(f"{said}; {IN_A_ROW} steps in a row were skipped before it; set a lower learning_rate")
        self._recorder.say(f"{said}; skipped (on_nan=skip)")


def _whose(scored: Sequence[Scored], samples: Sequence[tuple[int, int]]) -> str:
    """The samples in words; they are (place of the group in the batch, place in the group without masked ones)."""
    groups: dict[int, list[Scored]] = {one.rollout.group: [] for one in scored}
    for one in scored:
        if not one.masked:
            groups[one.rollout.group].append(one)
    members = [group for _, group in sorted(groups.items())]
    named = [_name(members[g][s]) for g, s in samples[:NAMED]]
    more = f" and {len(samples) - NAMED} more" if len(samples) > NAMED else ""
    return f" ({', '.join(named)}{more})" if named else ""


def _name(one: Scored) -> str:
    return f"task {one.rollout.task.task_id} sample {one.rollout.sample}"
