"""``distill``: a small reranker learns from a large one. Runs four commands, each in its own folder of the run directory.

The same command resumes an interrupted run: finished steps are skipped, and an interrupted step resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from r0.commands.plan import plan, plan_score
from r0.config import DistillConfig, DistillEvalConfig, DistillTrainConfig, DistillTripletsConfig, ScoreConfig, ScoringKeys
from r0.config.distill_run import keys_in_common
from r0.config.models import check_preset
from r0.config.types import LARGEST
from r0.data.jsonl import readable_file
from r0.data.labelled import BUILTIN
from r0.errors import UserError
from r0.runs import RunDirectory, RunState
from r0.runs.inputs import compared
from r0.runs.output_path import output_path

if TYPE_CHECKING:
    from r0.teacher.labelled_lists import LabelledLists

Step = tuple[str, Callable[[], int]]  # title, and what returns an exit code
# Keys of which each step has its own.
OWN_DATA = ("data", "data_type", "output", "fresh", "builtin_rows", "min_label", "max_label")


def run(config: DistillConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Run all steps, or print the plan. Returns the exit code: 128 + signal if stopped (the same command resumes).

    Raises:
        UserError: invalid input or models, detected before the teacher is loaded.
    """
    check_preset("distill score", config.teacher)
    if dry_run:
        steps = "score, triplets, train" if config.loss_type == "margin_mse" else "score, train"
        score = score_config(config, config.data, output_path("distill", config) / "score")
        said = plan("distill", config, gpu_memory), plan_score(score, gpu_memory)
        print(f"the student\n\n{said[0]}\n\nthe teacher\n\n{said[1]}")
        print(f"\nsteps: {steps}{', eval' if config.test else ''}")
        return 0
    output = output_path("distill", config)
    for data in filter(None, (config.data, config.test)):
        if data != BUILTIN:
            readable_file(Path(data), "a JSONL file of labelled lists")
    RunDirectory.look(output, "distill", config, fresh=config.fresh)
    lists, before = _check(config)
    with RunDirectory.open(output, "distill", config, fresh=config.fresh) as directory:
        for title, step in _steps(config, directory.path, lists, before):
            print(f"— {title}", flush=True)
            if code := step():
                return code
        if directory.state != RunState.FINISHED:
            directory.finish(0)
        print(directory.path / "train" / "model")
    return 0


def _check(config: DistillConfig) -> tuple[LabelledLists, str | None]:
    """Checks before anything is written. Returns the lists, and the student before training if it already has scores.

    Raises:
        UserError: a model, its settings or the data cannot be used; no test query is new.
    """
    from r0.data.hashes import query_hash
    from r0.rerank.prompt_budget import check_model
    from r0.storage.models import model_folder
    from r0.supervised.finetune.plan import check_model as check_student
    from r0.supervised.finetune.plan import has_scores
    from r0.supervised.training.run import check_ranks
    from r0.teacher.labelled_lists import LabelledLists

    student, teacher = model_folder(config.model), model_folder(config.teacher.model)
    training = train_config(config, Path())
    check_ranks(training)
    scored = has_scores(training, check_student(training, student), student)
    asked = score_config(config, config.data, Path())
    check_model(asked.ranking(), teacher)
    lists = LabelledLists(asked.data, asked.builtin_rows, asked.seed, asked.skip_bad)
    if config.test is not None:
        known = {query_hash(one.query) for one in lists}
        asked = score_config(config, config.test, Path(), test=True)
        test = LabelledLists(asked.data, asked.builtin_rows, asked.seed, asked.skip_bad)
        if all(query_hash(one.query) in known for one in test):
            raise UserError(f"test: every query of {config.test} is in {config.data} too; give lists of other queries")
    return lists, config.model if scored else None


def _steps(config: DistillConfig, folder: Path, lists: LabelledLists, before: str | None) -> Iterator[Step]:
    """The steps in order; a step is created when the previous one is done. Only the last two steps use the test data.

    Raises:
        UserError: the data has changed since it was scored.
    """
    from r0.commands import distill_eval, distill_score, distill_train, distill_triplets
    from r0.distill.check_scores import check_scores_match

    yield "score", lambda: distill_score.run(score_config(config, config.data, folder / "score"), False)
    check_scores_match(folder / "score" / "scores.jsonl", lists)
    if config.loss_type == "margin_mse" and not (folder / "triplets.jsonl").is_file():
        triplets = DistillTripletsConfig(
            data=str(folder / "score" / "scores.jsonl"), output=str(folder / "triplets.jsonl"), seed=config.seed,
            max_per_query=config.max_per_query, skip_bad=config.skip_bad,
        )  # fmt: skip
        yield "triplets", lambda: distill_triplets.run(triplets, False)
    yield "train", lambda: distill_train.run(train_config(config, folder), False)
    if config.test is not None:
        test = score_config(config, config.test, folder / "score_test", test=True)
        yield "the teacher on the test", lambda: distill_score.run(test, False)
        evaluation = eval_config(config, folder, before)
        _, changed = compared(folder / "eval", evaluation)  # a student that was trained longer is scored again
        yield "eval", lambda: distill_eval.run(evaluation.model_copy(update={"fresh": bool(changed)}), False)


def score_config(config: DistillConfig, data: str, output: Path, test: bool = False) -> ScoreConfig:
    """The configuration of the teacher's scoring of ``data``. A built-in test has a tenth as many lists, which are different."""
    keys = keys_in_common(config.teacher, ScoringKeys) | {"ray": config.ray, "seed": (config.teacher.seed + test) % (LARGEST + 1)}
    rows = max(8, config.builtin_rows // 10) if test else config.builtin_rows
    return ScoreConfig(**keys, data=data, builtin_rows=rows, output=str(output), skip_bad=config.skip_bad)  # type: ignore[arg-type]


def train_config(config: DistillConfig, folder: Path) -> DistillTrainConfig:
    """The configuration of the student's training, on triplets or on scores."""
    keys = {name: value for name, value in keys_in_common(config, DistillTrainConfig).items() if name not in OWN_DATA}
    name = "triplets.jsonl" if config.loss_type == "margin_mse" else "score/scores.jsonl"
    return DistillTrainConfig(**keys, data=str(folder / name), output=str(folder / "train"))  # type: ignore[arg-type]


def eval_config(config: DistillConfig, folder: Path, before: str | None) -> DistillEvalConfig:
    """The configuration of the evaluation on the test data: student before and after training, and teacher."""
    test = score_config(config, str(config.test), folder, test=True)
    formats = ("query_format", "document_format", "seq", "special_token", "system_prompt", "chat_template_kwargs")
    own = (*formats, "max_prompt_tokens", "ray", "format")
    return DistillEvalConfig(
        **{name: getattr(config, name) for name in own}, rollout=config.teacher.rollout,
        model=str(folder / "train" / "model"), before=before, data=test.data, builtin_rows=test.builtin_rows, seed=test.seed,
        skip_bad=config.skip_bad, teacher_scores=str(folder / "score_test" / "scores.jsonl"),
        seen=(str(folder / "score" / "scores.jsonl"),), output=str(folder / "eval"),
    )  # fmt: skip
