"""Compares each run with the first stage on each data set, and averages over data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from r0.config import EvaluateConfig
from r0.data.jsonl import BadLines
from r0.data.runfile import read_run
from r0.errors import UserError
from r0.evaluation.identical_ids import drop_identical
from r0.evaluation.judgements import Judgements, drop_excluded, open_judgements
from r0.evaluation.measure_names import Measure, read_measures
from r0.evaluation.measures import EXPONENTIAL, MAIN, MEASURES, Measured, measure
from r0.evaluation.significance import p_value

DATASET = "{}"  # placeholder for the data set's name in paths


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run on one data set (``measured``), or its mean over all data sets (``measured`` is None)."""

    name: str
    first_stage: bool
    means: dict[str, float]
    difference: float | None = None  # of the main measure from the first stage; None for the first stage itself
    p_value: float | None = None
    significant: bool = False
    measured: Measured | None = None
    excluded: int = 0  # candidates dropped because BRIGHT's query files exclude them
    identical: int = 0  # candidates dropped because they have the id of their query


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """All runs on one data set, the first stage first."""

    name: str  # empty if there is only one data set
    queries: int  # judged queries; means are over these
    without_relevant: int  # queries without a relevant document; they count 0 for every run
    runs: tuple[RunReport, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of ``eval``."""

    datasets: tuple[DatasetReport, ...]
    mean: tuple[RunReport, ...]  # over data sets with equal weights; empty for a single one
    measures: tuple[str, ...]
    main: str  # the measure of differences and tests
    relevance_level: int
    test: str
    alpha: float
    bad: BadLines


def evaluate(config: EvaluateConfig) -> Report:
    """Read and measure everything named in the configuration.

    Raises:
        UserError: a file cannot be used, keys contradict each other, or a run and the judgements have no query in common.
    """
    patterns, measures = _patterns(config), measures_of(config)
    labels = _labels(patterns)
    bad = BadLines(config.skip_bad)
    datasets = tuple(_dataset(config, name, patterns, labels, measures, bad) for name in config.datasets or ("",))
    mean = tuple(_over_datasets([dataset.runs[at] for dataset in datasets]) for at in range(len(patterns)))
    names, main = tuple(measure.name for measure in measures), _main(config, measures)
    shown = mean if config.datasets else ()
    return Report(datasets, shown, names, main, config.relevance_level, config.test, config.alpha, bad)


def measures_of(config: EvaluateConfig) -> tuple[Measure, ...]:
    """The measures in table order.

    Raises:
        UserError: one of the chosen ones does not exist.
    """
    chosen = read_measures(config.measures) or MEASURES
    return tuple(dict.fromkeys((*chosen, *(EXPONENTIAL if config.exponential_gain else ()))))


def _main(config: EvaluateConfig, measures: Sequence[Measure]) -> str:
    return measures[0].name if config.measures else MAIN


def _patterns(config: EvaluateConfig) -> list[str]:
    """The paths of the runs without repetitions, the first stage first.

    Raises:
        UserError: there is no run, or ``{}`` is used without data sets or vice versa.
    """
    if not config.runs and config.first_stage is None:
        raise UserError("runs: give at least one TREC run")
    if not config.qrels:
        raise UserError("qrels: give the judgements")
    patterns = [config.first_stage or config.runs[0], *config.runs]
    twice = next((name for name, count in Counter(config.datasets).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"datasets: {twice} occurs twice")
    first = () if config.first_stage is None else (config.first_stage,)
    for key, paths in (("qrels", config.qrels), ("first_stage", first), ("runs", config.runs), ("excluded", config.excluded)):
        for path in paths:
            if DATASET in path and not config.datasets:
                raise UserError(f"{key}: {path} contains {DATASET} for a data set's name; give the names with datasets=")
            if DATASET not in path and config.datasets:
                raise UserError(f"{key}: {path} contains no {DATASET} for the data set's name; add it, or remove datasets=")
    return list({str(Path(pattern)): pattern for pattern in patterns}.values())


def _labels(patterns: Sequence[str]) -> list[str]:
    """A short name for each run: the shortest unique tail of its path, without ``.trec``.

    ``run.trec`` alone is skipped, because every rerank folder has one, as is the placeholder of the data set's name.
    """
    paths = [Path(pattern) for pattern in patterns]
    parts = [tuple(part for part in (*path.parts[:-1], path.name.removesuffix(".trec")) if part != DATASET) for path in paths]
    labels = []
    for mine in parts:
        tail = 1
        while tail < len(mine) and (
            mine[-tail:] in [other[-tail:] for other in parts if other is not mine] or mine[-tail:] == ("run",)
        ):
            tail += 1
        labels.append("/".join(mine[-tail:]))
    return labels


def _dataset(
    config: EvaluateConfig, name: str, patterns: list[str], labels: list[str], measures: Sequence[Measure], bad: BadLines
) -> DatasetReport:
    def here(paths: Sequence[str]) -> list[Path]:
        return [Path(path.replace(DATASET, name)).expanduser() for path in paths]

    judgements = open_judgements(here(config.qrels), here(config.excluded), bad)
    runs: list[RunReport] = []
    first: Measured | None = None
    for path, label in zip(here(patterns), labels, strict=True):
        measured, dropped = _measure(path, judgements, measures, config, bad)
        report = _run_report(label, measured, first, _main(config, measures), config)
        runs.append(replace(report, excluded=dropped[0], identical=dropped[1]))
        first = first or measured
    relevant = [any(grade > 0 for grade in documents.values()) for documents in judgements.grades.values() if documents]
    return DatasetReport(name, len(relevant), relevant.count(False), tuple(runs))


def _measure(
    path: Path, judgements: Judgements, measures: Sequence[Measure], config: EvaluateConfig, bad: BadLines
) -> tuple[Measured, tuple[int, int]]:
    """The measures of a run, and the numbers of its candidates that were excluded and that have the id of their query."""
    run = read_run(path, bad)
    dropped = drop_excluded(run, judgements.excluded), drop_identical(run, judgements.grades, config.ignore_identical_ids)
    try:
        return measure(run, judgements.grades, measures, config.relevance_level), dropped
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _run_report(name: str, measured: Measured, first: Measured | None, main: str, config: EvaluateConfig) -> RunReport:
    """The report of a run compared with the ``first`` stage, or of the first stage itself if that is None."""
    means = {measure: measured.mean(measure) for measure in measured.values}
    if first is None:
        return RunReport(name, True, means, measured=measured)
    mine_Q, others_Q = measured.values[main], first.values[main]
    chance = p_value(mine_Q, others_Q, config.test)
    significant = chance is not None and chance < config.alpha
    return RunReport(name, False, means, float((mine_Q - others_Q).mean()), chance, significant, measured)


def _over_datasets(runs: Sequence[RunReport]) -> RunReport:
    """The mean of a run's means. No significance test: data sets are few, and their queries are not one sample."""
    means = {name: float(np.mean([run.means[name] for run in runs])) for name in runs[0].means}
    differences = [run.difference for run in runs if run.difference is not None]
    return RunReport(runs[0].name, runs[0].first_stage, means, float(np.mean(differences)) if differences else None)
