"""How probabilities and classes of one held-out evaluation agree with the labels: ``RUN/heldout/step-000012.json``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from r0.errors import UserError
from r0.storage.files import write_json, writing

BINS = 10  # of equal width
FOLDER = "heldout"  # of a run
NAME = re.compile(r"step-(\d+)\.json")


@dataclass(frozen=True)
class Calibration:
    """``bins``: of the probabilities, (pairs, mean probability, mean label), without empty ones. ``confusion`` counts rows by
    label and prediction, which ``labels`` and ``predictions`` name."""

    bins: tuple[tuple[float, float, float], ...]
    labels: tuple[str, ...]
    predictions: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]


def calibration_error(bins: Sequence[tuple[float, float, float]]) -> float:
    """Expected calibration error (Naeini et al., 2015; Guo et al., 2017, eq. 3): |mean probability − mean label| of the bins,
    each weighted by its share of the pairs; NaN if there are none."""
    pairs = sum(count for count, _, _ in bins)
    return sum(count * abs(probability - label) for count, probability, label in bins) / pairs if pairs else math.nan


def bins_of(probability_N: np.ndarray, label_N: np.ndarray) -> tuple[tuple[float, float, float], ...]:
    """The bins of ``Calibration``. Labels may lie between 0 and 1."""
    bin_N = np.minimum((probability_N * BINS).astype(int), BINS - 1)
    count_B = np.bincount(bin_N, minlength=BINS)
    sums = np.bincount(bin_N, probability_N, BINS), np.bincount(bin_N, label_N, BINS)
    filled = np.flatnonzero(count_B)
    return tuple((int(count_B[at]), float(sums[0][at] / count_B[at]), float(sums[1][at] / count_B[at])) for at in filled)


def write_calibration(folder: Path, step: int, found: Calibration) -> None:
    """Write the evaluation after ``step`` into ``folder``, which is created if it is missing.

    Raises:
        UserError: it cannot be written.
    """
    path = folder / f"step-{step:06d}.json"
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(found))


def calibration_files(folder: Path) -> dict[int, Path]:
    """The file of each evaluation, in order."""
    found = [(NAME.fullmatch(path.name), path) for path in folder.glob("step-*.json")]
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def read_calibration(path: Path) -> Calibration:
    """What ``write_calibration`` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = {name: tuple(map(tuple, content[name])) for name in ("bins", "confusion")}
        return Calibration(rows["bins"], tuple(content["labels"]), tuple(content["predictions"]), rows["confusion"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete it, and the report leaves it out") from None


def drop_later(folder: Path, step: int) -> None:
    """Delete the evaluations after ``step``, which will be made again."""
    for later, path in calibration_files(folder).items():
        if later > step:
            with writing(path):
                path.unlink(missing_ok=True)
