"""Keys of what a student learns from a teacher's scores, and of what it gained."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from r0.config.finetune import FinetuneConfig
from r0.config.sections import Count, Section, Share, key

STUDENT = "BAAI/bge-reranker-v2-m3"


class DistillTripletsConfig(Section):
    """A teacher's scores to triplets: query, positive, negative, difference of the scores."""

    data: str = key(..., "a teacher's scores, as `distill score` writes them")
    output: str = key(..., "triplets to write (JSONL)")
    source: str | None = key(None, "the data that was scored; scores of other queries or documents are refused")
    max_per_query: Count | None = key(None, "triplets of a query, at most, drawn by seed; empty: all")
    seed: Annotated[int, Field(ge=0)] = key(42, "of what is drawn")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")


class DistillTrainConfig(FinetuneConfig):
    """Train a student on a teacher's scores: MarginMSE from triplets, listwise KL from scores. The keys are finetune's."""

    HITS: ClassVar[str] = "scored"

    model: str = key(STUDENT, "student to start from: a folder, or a name on the Hugging Face Hub")
    data: str = key(..., "triplets of `distill triplets` (margin_mse), or a teacher's scores of `distill score` (listwise_kl)")
    validation_share: Share = key(0.1, "share of the queries in data (by hash) that validate instead of being trained on")
