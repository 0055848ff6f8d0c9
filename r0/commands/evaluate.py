"""``eval``: evaluates runs against judgements, always together with the first stage."""

from __future__ import annotations

import sys
from pathlib import Path

from r0.config import EvaluateConfig
from r0.errors import UserError
from r0.storage.files import refuse_inputs, write_atomic, writing


def run(config: EvaluateConfig, dry_run: bool) -> int:
    """Evaluate, print the table, and write the requested files."""
    from r0.evaluation.report import DATASET, evaluate, measures_of
    from r0.evaluation.table import per_query, render

    measures_of(config)  # names are checked before anything is read
    first = () if config.first_stage is None else (config.first_stage,)
    patterns = (*config.qrels, *config.excluded, *first, *config.runs)
    paths = {pattern.replace(DATASET, name): None for name in config.datasets or (DATASET,) for pattern in patterns}
    outputs = [Path(path).expanduser() for path in (config.output, config.per_query) if path is not None]
    if len(outputs) == 2 and outputs[0].absolute() == outputs[1].absolute():
        raise UserError(f"output, per_query: both are {outputs[0]}; name two files")
    for output in outputs:
        refuse_inputs(output, [Path(path).expanduser() for path in paths])
    if dry_run:
        for path in paths:
            print(f"would read {path} (which {'exists' if Path(path).expanduser().is_file() else 'is missing'})")
        return 0
    report = evaluate(config)
    table = render(report, config.format)
    print(table, end="")
    if report.bad.summary():
        print(report.bad.summary(), file=sys.stderr)
    for path, content in ((config.output, table), (config.per_query, per_query(report))):
        if path is not None:
            _write(Path(path).expanduser(), content)
    return 0


def _write(path: Path, content: str) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.encode("utf-8"))
