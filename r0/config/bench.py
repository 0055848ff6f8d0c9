"""The configuration of ``bench``."""

from __future__ import annotations

from r0.config.commands import OutputKeys
from r0.config.ranking import IDENTICAL, IgnoreIdentical, RankingKeys
from r0.config.sections import key
from r0.config.types import PathText

SUITES = ("beir-small", "bright")  # those that r0 has


class BenchConfig(OutputKeys, RankingKeys):
    """Retrieve, rerank and evaluate on several data sets, and write one table."""

    suite: PathText = key(
        ..., "beir-small, bright, a folder of BEIR folders, or a YAML or JSON file that lists data sets: NAME: {data: FOLDER}, "
        "and optionally run:, qrels:, excluded: and measure:"
    )  # fmt: skip
    data_root: PathText | None = key(
        None, "folder below which a suite's data sets and files are; a folder there that is called like a set takes the place of "
        "its data. Empty: the folder of the suite's file"
    )  # fmt: skip
    ignore_identical_ids: IgnoreIdentical = key("auto", IDENTICAL)
    skip_bad: bool = key(False, "skip bad lines; count and list them")
