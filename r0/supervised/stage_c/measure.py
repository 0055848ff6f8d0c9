"""Evaluation of a model's scores on held-out lists with the sampling engines: order, format, calibration.

The score of a document is the one that ``rerank method=pointwise`` sorts by; with thinking it follows a thought of the evaluated
model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Self

import numpy as np

from r0.actors.rollout.group import RolloutGroup
from r0.config import StageCConfig
from r0.errors import UserError
from r0.ranking import groups_of_order, ndcg
from r0.records import ListwiseTask, SampleRequest
from r0.rerank.protocol import Ranking
from r0.runs.calibration import Calibration, bins_of, calibration_error
from r0.storage.files import write_atomic
from r0.supervised.stage_c.list_prompter import ListPrompter
from r0.supervised.stage_c.lists import label_range, scaled

CUTOFF = 10  # of nDCG
SAID = ("yes", "no")


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics by name, nDCG@10 of each list, and what the report shows of the pairs."""

    values: Mapping[str, float] = field(default_factory=dict)
    ndcg: Sequence[float] = ()
    calibration: Calibration | None = field(default=None, compare=False)  # stored in a file of its own

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The result that ``write`` wrote to ``path``; None if there is none.

        Raises:
            UserError: the file is damaged.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: is damaged ({error}); delete it and run the same command again") from None

    def write(self, path: Path) -> None:
        """Write it to a file, atomically."""
        write_atomic(path, (json.dumps({"values": dict(self.values), "ndcg": list(self.ndcg)}) + "\n").encode())


def measure(
    config: StageCConfig, tasks: Sequence[ListwiseTask], list_prompter: ListPrompter, engines: RolloutGroup
) -> EvaluationResult:
    """Metrics of the model that the engines hold, by name:

    ndcg@10              mean over lists, sorted by score
    ndcg@10_given        mean over lists in the given order
    format_rate          share of the greedy completions (one per document) with an answer
    well_formed_rate     share of the greedy completions without a violation
    ece                  calibration error of P(yes) = σ(score) against the labels scaled to 0…1
    """
    prompts = [list_prompter.prompts(task) for task in tasks]
    flat = [prompt for each in prompts for prompt in each]
    requests = [SampleRequest(prompt.token_ids, 0) for prompt in flat]
    completions = engines.sample(requests, 1.0, config.max_new_tokens, greedy=True)
    both = list(zip(flat, completions, strict=True))
    verdicts = [list_prompter.reader.read(one.token_ids, prompt.prefix, one.finish)[1] for prompt, one in both]
    if config.thinking:
        places = [list_prompter.places.after_completion(prompt, one.token_ids) for prompt, one in both]
    else:
        places = [list_prompter.places.without_thought(prompt) for prompt in flat]
    asked = [SampleRequest(place.context_ids, 0, (place.yes_id, place.no_id)) for place in places]
    scores = [_score(one.allowed_logprobs) for one in engines.sample(asked, 1.0, 1, greedy=True)]
    range_ = label_range(config)
    found, given, start = [], [], 0
    for task in tasks:
        grades, order = task.label.grades, task.label.given
        mine = scores[start : start + task.size]
        ranking = Ranking.of_scores([mine[document] for document in order])
        found.append(ndcg(grades, groups_of_order(order[place] for place in ranking.order), CUTOFF))
        given.append(ndcg(grades, groups_of_order(order), CUTOFF))
        start += task.size
    labels = [label for task in tasks for label in scaled(task, *range_)]
    bins = bins_of(np.array([_sigma(score) for score in scores]), np.array(labels))
    values = {
        f"ndcg@{CUTOFF}": fmean(found),
        f"ndcg@{CUTOFF}_given": fmean(given),
        "format_rate": fmean(verdict.answer is not None for verdict in verdicts),
        "well_formed_rate": fmean(verdict.well_formed for verdict in verdicts),
        "ece": calibration_error(bins),
    }
    named = {f"heldout/{name}": value for name, value in values.items()}
    every_grade = [grade for task in tasks for grade in task.label.grades]
    return EvaluationResult(named, found, Calibration(bins, *confusion(every_grade, scores)))


def confusion(
    grades: Sequence[float], scores: Sequence[float]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Of each grade, how many documents are said to be relevant (a score above 0), and how many not."""
    known = sorted(set(grades))
    counts = np.zeros((len(known), len(SAID)), dtype=int)
    for grade, score in zip(grades, scores, strict=True):
        counts[known.index(grade), int(score <= 0)] += 1
    return tuple(f"grade {grade:g}" for grade in known), SAID, tuple(tuple(map(int, row)) for row in counts)


def _score(logprobs: Sequence[float]) -> float:
    """logit(yes) − logit(no), which equals the difference of the log-probabilities."""
    yes, no = logprobs
    return yes - no


def _sigma(score: float) -> float:
    return 1.0 / (1.0 + exp(min(-score, 700.0)))
