"""A student before and after its training on the same lists: both are scored by `distill score`, and measured from its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from r0.config import DistillEvalConfig, ScoreConfig, ScoringKeys
from r0.config.distill_run import keys_in_common
from r0.data.hashes import query_hash
from r0.data.jsonl import BadLine, BadLines, read_lines, readable_file, text_of
from r0.data.labelled import LISTED
from r0.data.scored import ScoredList, read_scored
from r0.distill.gain import Gain, JudgedLists
from r0.models import model_folder

SCORES = "scores.jsonl"  # what `distill score` leaves in its folder
FORMATS = ("query_format", "document_format", "seq", "special_token", "system_prompt")


def sides(config: DistillEvalConfig, folder: Path) -> Mapping[str, ScoreConfig]:
    """The scoring of each model, by the name of its folder in ``folder``.

    Raises:
        UserError: a model cannot be found.
    """
    models = {"after": config.model} | ({} if config.before is None else {"before": config.before})
    return {name: _scoring(config, model, folder / name) for name, model in models.items()}


def _scoring(config: DistillEvalConfig, model: str, output: Path) -> ScoreConfig:
    """A CrossEncoder of sentence-transformers scores in its own format; a language model as it is asked to."""
    keys = keys_in_common(config, ScoringKeys) | {"model": model}
    if (model_folder(model) / "modules.json").is_file():
        keys |= {"thinking": None, "system_prompt": "", **dict.fromkeys(FORMATS[:-1])}
    elif not config.thinking:
        keys["max_new_tokens"] = 1
    return ScoreConfig(**keys, data=config.data, builtin_rows=config.builtin_rows, output=str(output), skip_bad=config.skip_bad)  # type: ignore[arg-type]


def gained(config: DistillEvalConfig, folder: Path) -> Gain:
    """The measures of the models that were scored in ``folder``.

    Raises:
        UserError: the teacher's scores are of other lists; every query was trained on; a label is no grade.
    """
    after = _read(folder / "after" / SCORES)
    judged = JudgedLists.of(after, frozenset().union(*(_queries(Path(path).expanduser()) for path in config.seen)))
    scored = {"after": after}
    if config.before is not None:
        scored["before"] = _read(folder / "before" / SCORES)
    if config.teacher_scores is not None:
        scored["teacher"] = _read(Path(config.teacher_scores).expanduser())
    places = {"teacher": str(config.teacher_scores)}
    found = {name: judged.measure(lists, places.get(name, name)) for name, lists in scored.items()}
    notes = [f"{len(judged.lists)} queries of {config.data}"]
    if judged.left_out:
        notes.append(f"{judged.left_out} queries were trained on too and are left out")
    for name, lists in scored.items():
        if missing := sum(one.scores.count(None) for one in lists):
            notes.append(f"{name}: {missing} documents have no score and come last")
    return Gain(found["after"], found.get("before"), found.get("teacher"), tuple(notes))


def _read(path: Path) -> list[ScoredList]:
    return list(read_scored(path, BadLines()))


def _queries(path: Path) -> frozenset[int]:
    """Hashes of the queries in a file of training data."""
    readable_file(path, "training data with queries (JSONL)")
    bad, found = BadLines(), set()
    for line in read_lines(path, bad, "", LISTED):
        try:
            found.add(query_hash(text_of(line.row, "query")))
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
    return frozenset(found)
