"""The names of data sets: ``hf:OWNER/NAME[/SUBSET][/SPLIT][@REVISION]`` and ``ir_datasets:ID``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from r0.errors import UserError

HUB, IR_DATASETS = "hf:", "ir_datasets:"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WORD = re.compile(r"[\w.-]+")
_FORM = "write it as hf:OWNER/NAME, hf:OWNER/NAME/SPLIT or hf:OWNER/NAME/SUBSET/SPLIT, with @REVISION at its end if wanted"


@dataclass(frozen=True)
class HubName:
    """A data set on the Hub: its repository, what follows it (a subset, a split or both), and the revision (None: main)."""

    repository: str
    words: tuple[str, ...] = ()
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Read ``hf:…``.

        Raises:
            UserError: it is not of that form.
        """
        path, at, revision = text.removeprefix(HUB).partition("@")
        words = path.split("/")
        if not 2 <= len(words) <= 4 or not all(map(_WORD.fullmatch, words)) or (at and not revision):
            raise UserError(f"{text}: is no name of a data set on the Hugging Face Hub; {_FORM}")
        return cls("/".join(words[:2]), tuple(words[2:]), revision or None)

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def pinned(self, commit: str) -> HubName:
        """The name at a commit."""
        return replace(self, revision=commit)

    def __str__(self) -> str:
        return HUB + "/".join([self.repository, *self.words]) + (f"@{self.revision}" if self.revision else "")


def is_name(text: str) -> bool:
    """Whether a value names a data set, and no file."""
    return text.startswith((HUB, IR_DATASETS))
