"""Measures a student before and after training on the same lists, from scores computed by `distill score`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from r0.config import DistillEvalConfig, ScoreConfig, ScoringKeys
from r0.config.distill_run import keys_in_common
from r0.data.hashes import query_hash
from r0.data.jsonl import BadLine, BadLines, read_lines, readable_file
from r0.data.labelled import LISTED
from r0.data.row_keys import QUERY, Keys
from r0.data.scored import ScoredList, read_scored
from r0.distill.gain import Gain, JudgedLists
from r0.storage.models import model_folder
from r0.teacher.labelled_lists import LabelledLists

SCORES = "scores.jsonl"  # the output of `distill score`
FORMATS = ("query_format", "document_format", "seq", "special_token", "system_prompt")


def scoring_configs(config: DistillEvalConfig, folder: Path) -> Mapping[str, ScoreConfig]:
    """The scoring configuration of each model, by the name of its folder in ``folder``.

    Raises:
        UserError: a model cannot be found.
    """
    models = {"after": config.model} | ({} if config.before is None else {"before": config.before})
    return {name: scoring_config(config, model, folder / name) for name, model in models.items()}


def scoring_config(config: DistillEvalConfig, model: str, output: Path) -> ScoreConfig:
    """The scoring configuration of one model: a sentence-transformers CrossEncoder uses its own format, a language model the
    configured one.
    """
    keys = keys_in_common(config, ScoringKeys) | {"model": model}
    if (model_folder(model) / "modules.json").is_file():
        keys |= {"thinking": None, "system_prompt": "", "chat_template_kwargs": {}, **dict.fromkeys(FORMATS[:-1])}
    elif not config.thinking:
        keys["max_new_tokens"] = 1
    return ScoreConfig(**keys, data=config.data, builtin_rows=config.builtin_rows, output=str(output), skip_bad=config.skip_bad)  # type: ignore[arg-type]


def judged_lists(config: DistillEvalConfig) -> JudgedLists:
    """The test lists.

    Raises:
        UserError: the data cannot be used, all queries were trained on, or the teacher
            scored other lists.
    """
    lists = LabelledLists(config.data, config.builtin_rows, config.seed, config.skip_bad)
    seen = frozenset[int]().union(*(_queries(Path(path).expanduser()) for path in config.seen))
    found = (ScoredList(one.query, one.documents, one.labels, (None,) * len(one.documents), one.place) for one in lists)
    judged = JudgedLists.of(found, seen)
    if config.teacher_scores is not None:
        judged.measure(_read(config.teacher_scores), config.teacher_scores)
    return judged


def measure_gain(config: DistillEvalConfig, judged: JudgedLists, folder: Path) -> Gain:
    """The measures of the models scored in ``folder``, and of the teacher.

    Raises:
        UserError: a file of scores is damaged, or belongs to other lists.
    """
    paths = {"after": str(folder / "after" / SCORES), "before": str(folder / "before" / SCORES), "teacher": config.teacher_scores}
    if config.before is None:
        paths["before"] = None
    scored = {name: _read(path) for name, path in paths.items() if path is not None}
    found = {name: judged.measure(lists, str(paths[name])) for name, lists in scored.items()}
    notes = [f"{len(judged.lists)} queries of {config.data}"]
    if judged.left_out:
        notes.append(f"{judged.left_out} queries dropped: they occur in the training data")
    for name, lists in scored.items():
        if missing := sum(one.scores.count(None) for one in lists):
            notes.append(f"{name}: {missing} documents without a score are ranked last")
    return Gain(found["after"], found.get("before"), found.get("teacher"), tuple(notes))


def _read(path: str) -> list[ScoredList]:
    return list(read_scored(Path(path).expanduser(), BadLines()))


def _queries(path: Path) -> frozenset[int]:
    """Hashes of the queries in a file of training data."""
    readable_file(path, "training data with queries (JSONL)")
    bad, found = BadLines(), set()
    for line in read_lines(path, bad, "", LISTED):
        try:
            found.add(query_hash(Keys(line.row).text(QUERY)))
        except BadLine as error:
            bad.refuse(path, line.number, str(error))
    return frozenset(found)
