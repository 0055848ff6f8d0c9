"""The configuration of ``report``."""

from __future__ import annotations

from r0.config.sections import Section, key
from r0.config.types import CountFrom0, PathText


class ReportConfig(Section):
    """Write runs as one HTML page that needs no network: report RUN [RUN …]."""

    runs: tuple[PathText, ...] = key(
        ..., "run directories; several are compared. TREC runs too: with qrels=, each against the first", strict=False
    )
    output: PathText | None = key(
        None, "file to write; empty: report.html in the run directory, or in the current folder if there are several runs"
    )
    samples: CountFrom0 = key(4, "completions of a step that are shown: this many of the worst, and of the best")
    qrels: PathText | None = key(
        None,
        "judgements of rerank and TREC runs: a split of the BEIR folder, or a file; empty: its test split, or its only one",
    )
    open: bool = key(False, "open the page in the browser")
