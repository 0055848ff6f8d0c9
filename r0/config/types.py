"""The types of keys: bounded numbers, and texts that name files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo

LARGEST = 2**31 - 1  # of integers; seeds too: ranks add their number to it, and NumPy takes less than 2**32

Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountFrom2 = Annotated[int, Field(ge=2, le=LARGEST)]
CountFrom0 = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = CountFrom0
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Epochs = Annotated[float, Field(gt=0, le=1e6)]
Seconds = Annotated[float, Field(gt=0, le=1e8)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Names:
    """Marks a key that can name a file or a folder. ``content``: the run reads the file, and a resumed run must find the same."""

    content: bool = False


def _expanded(text: str) -> str:
    """``~/x`` with the home directory, which shells leave as it is behind ``key=``."""
    return os.path.expanduser(text) if text.startswith("~") else text


PathText = Annotated[str, AfterValidator(_expanded), Names()]
DataText = Annotated[str, AfterValidator(_expanded), Names(content=True)]


def names_files(field: FieldInfo) -> Names | None:
    """Whether a key names files, and whether their content is part of the run."""
    return next((one for one in _parts([*field.metadata, field.annotation]) if isinstance(one, Names)), None)


def _parts(parts: Any) -> Iterator[Any]:
    for part in parts:
        if isinstance(part, Names):
            yield part
        yield from _parts(getattr(part, "__metadata__", ()))
        yield from _parts(get_args(part))
