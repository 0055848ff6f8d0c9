"""The steps of a real run: each is one command of r0, with a configuration of ``configs/real``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from r0.storage.files import write_json

Runner = Callable[[Sequence[str], Path], int]  # words of a command, file for what it prints → exit code
CONVERT = "model"


@dataclass(frozen=True)
class Setting:
    """What the steps work with."""

    folder: Path  # of everything that is made
    configs: Path
    model: Path
    encoder: Path
    seed: int
    highest: float = 1.0  # grade
    gguf: Path | None = None  # of which ``model`` is made

    @property
    def data(self) -> Path:
        """The split data."""
        return self.folder / "data"

    def made(self, step: str) -> Path:
        """The output folder of a step."""
        return self.folder / "runs" / step


@dataclass(frozen=True)
class Step:
    """One command."""

    name: str
    words: tuple[str, ...]
    title: str = ""  # in the table, of a step that writes a run of the test queries
    whole: bool = False  # whether that run is of the whole corpus


def plan(at: Setting) -> list[Step]:
    """All steps, cheap ones first."""
    trained = lambda step: at.made(step) / "model"  # noqa: E731
    name, kind = at.model.name, at.encoder.name
    lists = (f"data={at.data}", f"run={at.data / 'train.trec'}", "qrels=train", f"max_label={at.highest:g}")
    validation = f"validation={at.data / 'validation.jsonl'}"
    groups = (f"data={at.data / 'train.jsonl'}", validation)
    made = (f"data={at.made('mine') / 'data' / 'groups.jsonl'}", validation)
    convert = [Step(CONVERT, ("convert", str(at.gguf), str(at.model)))] if at.gguf else []
    return [
        *convert,
        _first_stage(at, "bm25", "BM25", f"candidates={at.data / 'test.trec'}"),
        _first_stage(at, "whole_bm25", "BM25", "", whole=True),
        Step("mine", ("mine", str(at.configs / "mine.yaml"), f"data={at.data / 'questions'}", f"output={at.made('mine')}")),
        _train(at, "pretrain_encoder", "finetune", at.encoder, *made),
        _rank(at, "rank_pretrained_encoder", f"{kind}, finetune on made questions", "rank_encoder", trained("pretrain_encoder")),
        _train(at, "finetune_encoder", "finetune", trained("pretrain_encoder"), *groups),
        _rank(at, "rank_encoder", f"{kind}, finetune", "rank_encoder", trained("finetune_encoder")),
        _rank(at, "whole_encoder", f"BM25, then {kind}, finetune", "rank_whole", trained("finetune_encoder"), whole=True),
        _rank(at, "zero_shot", f"{name}, untrained", "rank", at.model),
        _train(at, "pretrain", "finetune", at.model, made[0]),
        _train(at, "finetune", "finetune", trained("pretrain"), *groups),
        _rank(at, "rank_finetuned", f"{name}, finetune", "rank", trained("finetune")),
        _train(at, "stage_c", "stage_c", trained("pretrain"), *lists),
        _rank(at, "rank_stage_c", f"{name}, stage C", "rank", trained("stage_c")),
        Step("rows", ("convert", str(at.data / "raw_log.jsonl"), str(at.folder / "rows.jsonl"))),
        _train(at, "sft", "sft", trained("finetune"), f"data={at.folder / 'rows.jsonl'}"),
        _rank(at, "rank_sft", f"{name}, thinking, sft", "rank_thinking", trained("sft")),
        _train(at, "stage_c_thinking", "stage_c", trained("sft"), *lists),
        _rank(at, "rank_stage_c_thinking", f"{name}, thinking, sft and stage C", "rank_thinking", trained("stage_c_thinking")),
        _completions(at, "completions_stage_c_thinking", trained("stage_c_thinking")),
        _train(at, "stage_a", "stage_a", trained("stage_c_thinking"), *lists),
        _rank(at, "rank_stage_a", f"{name}, thinking, sft, stage C and GRPO", "rank_thinking", trained("stage_a")),
        _completions(at, "completions_stage_a", trained("stage_a")),
        _train(at, "distill", "distill", trained("pretrain_encoder"), groups[0], f"teacher.model={trained('finetune')}"),
        _rank(at, "rank_student", f"{kind}, distilled from finetune", "rank_encoder", at.made("distill") / "train" / "model"),
    ]  # fmt: skip


def run_file(at: Setting, step: Step) -> Path:
    """The TREC run that a step with a title writes."""
    made = at.made(step.name)
    return made / "run.trec" if made.is_dir() else made.with_suffix(".trec")


def run(step: Step, at: Setting, runner: Runner) -> int:
    """Do a step that is not done; returns its exit code. ``logs/STEP.log`` has what it prints, ``done/STEP.json`` its seconds."""
    mark = at.folder / "done" / f"{step.name}.json"
    if mark.is_file() and json.loads(mark.read_text())["words"] == list(step.words):
        return 0
    log = at.folder / "logs" / f"{step.name}.log"
    for path in (mark, log, at.made(step.name)):
        path.parent.mkdir(parents=True, exist_ok=True)
    print(f"{step.name}: r0 {' '.join(step.words)}", flush=True)
    start = time.monotonic()
    code = runner(step.words, log)
    seconds = time.monotonic() - start
    if code == 0:
        write_json(mark, {"words": list(step.words), "seconds": round(seconds, 1)})
    print(f"{step.name}: {'done' if code == 0 else f'exit code {code}'} after {seconds:.0f} s", flush=True)
    return code


def _first_stage(at: Setting, name: str, title: str, candidates: str, whole: bool = False) -> Step:
    words = ("retrieve", str(at.configs / "retrieve.yaml"), f"data={at.data}", "qrels=test", f"output={at.made(name)}.trec")
    return Step(name, (*words, *filter(None, [candidates])), title, whole)


def _train(at: Setting, name: str, command: str, model: Path, *keys: str) -> Step:
    words = (command, str(at.configs / f"{name}.yaml"), f"model={model}", *keys, f"seed={at.seed}", f"output={at.made(name)}")
    return Step(name, words)


def _rank(at: Setting, name: str, title: str, config: str, model: Path, whole: bool = False) -> Step:
    run = at.made("whole_bm25").with_suffix(".trec") if whole else at.data / "test.trec"
    words = ("rerank", str(at.configs / f"{config}.yaml"), f"model={model}", f"data={at.data}", f"run={run}")
    return Step(name, (*words, f"output={at.made(name)}"), title, whole)


def _completions(at: Setting, name: str, model: Path) -> Step:
    keys = (f"data={at.data}", f"run={at.data / 'validation.trec'}", "qrels=validation", f"max_label={at.highest:g}")
    words = (
        "stage_a",
        str(at.configs / "completions.yaml"),
        f"model={model}",
        *keys,
        f"seed={at.seed}",
        f"output={at.made(name)}",
    )
    return Step(name, words)
