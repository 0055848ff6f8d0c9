"""The training data of stage C: labelled lists with labels scaled to 0…1, and each document as a pair with its query."""

from __future__ import annotations

from r0.config import StageCConfig
from r0.data.formats import open_lists
from r0.data.lists import ListRows
from r0.data.readers import DataKind
from r0.data.source import TaskSource
from r0.errors import UserError
from r0.records import Form, ListwiseTask, PointwiseTask

BUILTIN_RANGE = (0.0, 2.0)  # grades of the built-in lists


def stage_c_source(config: StageCConfig) -> TaskSource:
    """The lists of the configuration. Lists without a relevant document, or with one label only, are dropped and counted.

    Raises:
        UserError: the data cannot be used; a label is outside the range; no list is left.
    """
    least, most = label_range(config)
    rows = open_lists(config, config, Form.SCORES, config.seed, spread=True)
    if isinstance(rows, ListRows) and len(grades := rows.grades()) and not least <= grades.min() <= grades.max() <= most:
        outside = grades.min() if grades.min() < least else grades.max()
        raise UserError(
            f"data: {rows.name} has the label {outside:g}, outside {least:g} to {most:g}; declare the lowest and the highest "
            "label with min_label= and max_label="
        )
    return TaskSource(rows, config.seed, config.heldout_share, unit="list")


def label_range(config: StageCConfig) -> tuple[float, float]:
    """The labels that become 0 and 1.

    Raises:
        UserError: the lowest is not below the highest.
    """
    least, most = BUILTIN_RANGE if config.data == DataKind.BUILTIN else (0.0, 1.0)
    least = least if config.min_label is None else config.min_label
    most = most if config.max_label is None else config.max_label
    if least >= most:
        raise UserError(f"min_label: {least:g} is not below max_label={most:g}; give the lowest and the highest label")
    return least, most


def scaled(task: ListwiseTask, least: float, most: float) -> tuple[float, ...]:
    """[N] the labels of a list, scaled so that ``least`` is 0 and ``most`` is 1. Candidates without a judgement are 0."""
    return tuple((min(max(grade, least), most) - least) / (most - least) for grade in task.label.grades)


def pairs(task: ListwiseTask) -> list[PointwiseTask]:
    """[N] one pointwise task for each document of a list."""
    return [
        PointwiseTask(task.task_id, task.query, document, int(grade >= task.label.threshold))
        for document, grade in zip(task.documents, task.label.grades, strict=True)
    ]
