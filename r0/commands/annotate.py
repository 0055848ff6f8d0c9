"""``annotate``: a teacher writes a thought and a verdict for every pair; the output is training data for ``sft``."""

from __future__ import annotations

from r0.commands.plan import plan_engines
from r0.config import AnnotateConfig
from r0.data.formats import check_source, open_rows
from r0.errors import UserError
from r0.process.signals import StopRequest
from r0.rerank.session import Session, finish
from r0.runs import RunDirectory, RunState
from r0.runs.live import duration
from r0.runs.output_path import output_path
from r0.runs.prompt_date import with_date
from r0.storage.files import write_json
from r0.storage.models import model_folder
from r0.teacher.annotate import check_teacher, pairs_to_annotate, planned_keys
from r0.teacher.annotate_output import RAW_LOG, ROWS, write_raw_log, write_rows
from r0.teacher.annotate_pairs import Pairs
from r0.teacher.annotate_store import Annotations
from r0.teacher.annotate_totals import Totals

ANNOTATIONS, SUMMARY = "annotations.jsonl", "summary.json"


def run(config: AnnotateConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Annotate, or print the plan. Returns the exit code: 0 if done, 128 + signal if stopped (the same command resumes).

    Raises:
        UserError: invalid input that can be detected before a model loads; in the end, that no thought could be kept.
    """
    if dry_run:
        print(plan_engines("annotate", config, planned_keys(config), gpu_memory))
        return 0
    check_source(config, unlabelled=True)
    output = output_path("annotate", config)
    config = with_date("annotate", config, model_folder(config.model))
    keys = check_teacher(config)
    RunDirectory.look(output, "annotate", config, fresh=config.fresh)
    pairs = Pairs(open_rows(config, config.seed, unlabelled=True))
    what = "stopping; annotated pairs are kept, and the same command goes on from them"
    with RunDirectory.open(output, "annotate", config, fresh=config.fresh) as directory, StopRequest(what) as stop:
        name, write = (ROWS, write_rows) if config.format == "rows" else (RAW_LOG, write_raw_log)
        result = directory.path / name
        if directory.state == RunState.FINISHED and result.is_file():
            print(f"{result}: finished before (fresh=true starts over)")
            return 0
        if directory.state == RunState.FINISHED:  # with the other format
            with Annotations(directory.path / ANNOTATIONS, pairs, lambda row: None) as done:
                if lacking := len(pairs) - len(done):
                    raise UserError(f"{done.path}: lacks {lacking} pairs of the finished run; start over with fresh=true")
                print(write(result, pairs, done))
            return 0
        print(pairs.summary())
        totals = Totals()
        with Annotations(directory.path / ANNOTATIONS, pairs, totals.add) as done:
            work = pairs_to_annotate(config.samples, pairs, done, config.skip_bad)
            session = finish(keys, work, done, len(pairs), stop)
            if session is None:
                return stop.exit_code
            print(report(totals, session))
            if not totals.kept:
                raise UserError(
                    f"no thought of {config.model} could be kept; what it wrote is in {done.path}: give it another "
                    "system_prompt=, more max_new_tokens, or take another model"
                )
            said = write(result, pairs, done)
        write_json(directory.path / SUMMARY, totals.summary())
        directory.finish(totals.pairs, {"kept": sum(totals.kept.values()), "samples": totals.samples})
        print(said)
    return 0


def report(totals: Totals, session: Session) -> str:
    """The table of the teacher's verdicts, and its speed."""
    if not session.jobs:
        return totals.report()
    speed = f"{session.new_tokens / max(session.seconds, 1e-9):,.0f} tokens a second"
    written = f"{session.new_tokens:,} tokens written"
    return f"{session.jobs} pairs in {duration(session.seconds)}: {written}, {speed}\n{totals.report()}"
