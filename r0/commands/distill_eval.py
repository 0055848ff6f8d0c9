"""``distill eval``: a student before and after, in MAP, MRR@10 and nDCG@10, with absolute and relative gain."""

from __future__ import annotations

from pathlib import Path

from r0.config import DistillEvalConfig
from r0.data.jsonl import readable_file
from r0.data.labelled import BUILTIN
from r0.errors import UserError
from r0.runs import RunDirectory, RunState
from r0.runs.output_path import output_path
from r0.storage.files import write_atomic

TABLE = "gain.json"


def run(config: DistillEvalConfig, dry_run: bool) -> int:
    """Score and evaluate, or print the plan. Returns the exit code: 128 + signal if stopped (the same command resumes)."""
    output = output_path("distill eval", config)
    if dry_run:
        models = ", ".join(filter(None, (config.before, config.model)))
        print(f"would score {config.data} with {models} and measure; output: {output}")
        missing = [line for model in (config.model, config.before) if model is not None and (line := _missing(config, model))]
        print("\n".join(["missing:", *(f"  {line}" for line in missing)] if missing else ["nothing is missing"]))
        return 0
    from r0.commands import distill_score
    from r0.distill.evaluate import judged_lists, measure_gain, scoring_configs
    from r0.distill.gain import render
    from r0.rerank.prompt_budget import check_model
    from r0.storage.models import model_folder

    if config.data != BUILTIN:
        readable_file(Path(config.data), "a JSONL file of labelled lists")
    for scoring in scoring_configs(config, output).values():
        check_model(scoring.ranking(), model_folder(scoring.model))
    RunDirectory.look(output, "distill eval", config, fresh=config.fresh)
    judged = judged_lists(config)
    with RunDirectory.open(output, "distill eval", config, fresh=config.fresh) as directory:
        for name, scoring in scoring_configs(config, directory.path).items():
            if (directory.path / name / "finished.json").is_file():
                continue
            print(f"{name}: {scoring.model}")
            if code := distill_score.run(scoring, dry_run=False):
                return code
        gain = measure_gain(config, judged, directory.path)
        if directory.state != RunState.FINISHED:
            write_atomic(directory.path / TABLE, render(gain, "json").encode())
            directory.finish(
                len(gain.after.query_ids), {f"after/{row['measure']}": float(row["after"] or 0) for row in gain.rows()}
            )
        print(render(gain, config.format), end="")
    return 0


def _missing(config: DistillEvalConfig, model: str) -> str:
    """What keeps a model from being scored with; empty if nothing does."""
    from r0.commands.start_model import check_model
    from r0.distill.evaluate import scoring_config
    from r0.storage.models import local_folder

    try:
        folder = local_folder(model)
        if folder is None:
            return f"model: {model} is not on this machine; it would be downloaded from the Hugging Face Hub"
        check_model(scoring_config(config, model, folder).ranking(), folder)
    except UserError as error:
        return str(error)
    return ""
