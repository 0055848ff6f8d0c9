"""The stored rollouts of a run: ``RUN/rollouts/step-000012.jsonl.gz`` (see ``r0.storage.rollout_lines``)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from r0.records import ScoredGroup
from r0.storage.files import write_atomic, writing
from r0.storage.rollout_lines import each_packed

NAME = re.compile(r"step-(\d+)\.jsonl(?:\.gz)?")

Pack: TypeAlias = Callable[[int, Sequence[ScoredGroup], Mapping[tuple[int, ...], str]], Iterable[bytes]]
"""Makes the parts of a file from its step, its groups and the texts of their prompts."""


class RolloutLog:
    """The rollouts folder of a run.

    Args:
        folder: the folder of the files.
        decode: converts prompt ids to text; None leaves the text empty.
        pack: makes a file's parts.
    """

    def __init__(self, folder: Path, decode: Callable[[Sequence[int]], str] | None = None, pack: Pack = each_packed):
        self.folder, self._decode, self._pack = folder, decode, pack

    def prompt_texts(self, groups: Iterable[ScoredGroup]) -> dict[tuple[int, ...], str]:
        """The text of each prompt, by its ids. Call it in the thread that uses the tokenizer: tokenizers are not thread-safe."""
        prompts = {group.prompt.token_ids for group in groups}
        return {ids: self._decode(ids) if self._decode else "" for ids in prompts}

    def write(self, step: int, groups: Sequence[ScoredGroup], texts: Mapping[tuple[int, ...], str] | None = None) -> Path:
        """Atomically write the rollouts of ``step``, group by group. ``texts``: the result of ``prompt_texts``, if already
        computed.

        Raises:
            UserError: the file cannot be written.
            ObjectsLost: rollouts are gone with the machine that held them.
        """
        texts = self.prompt_texts(groups) if texts is None else texts
        path = self.folder / f"step-{step:06d}.jsonl.gz"
        write_atomic(path, self._pack(step, groups, texts))
        return path

    def resume(self, step: int) -> None:
        """Delete the rollouts of later steps, which will be sampled again."""
        for later, path in self.files().items():
            if later > step:
                with writing(path):
                    path.unlink(missing_ok=True)

    def files(self) -> dict[int, Path]:
        """The stored file of each step, in order."""
        found = [(NAME.fullmatch(path.name), path) for path in self.folder.glob("step-*")] if self.folder.is_dir() else []
        return dict(sorted((int(match[1]), path) for match, path in found if match))


def steps_text(steps: list[int]) -> str:
    """``steps 1 to 40 and 45``; constant spacing is abbreviated: ``steps 10, 20, … 200``."""
    gaps = {after - before for before, after in itertools.pairwise(steps)}
    if len(steps) <= 3:
        return "step " + ", ".join(map(str, steps)) if len(steps) == 1 else "steps " + ", ".join(map(str, steps))
    if len(gaps) == 1:
        return f"steps {steps[0]} to {steps[-1]}" if gaps == {1} else f"steps {steps[0]}, {steps[1]}, … {steps[-1]}"
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][1] + 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    parts = [f"{first} to {last}" if last > first else f"{first}" for first, last in runs]
    return "steps " + ", ".join(parts if len(parts) <= 12 else [*parts[:6], "…", *parts[-5:]])
