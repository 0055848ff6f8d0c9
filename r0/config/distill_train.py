"""Keys of the middle steps of distillation: triplets from a teacher's scores, and training the student."""

from __future__ import annotations

from typing import ClassVar

from r0.config.finetune import FinetuneConfig
from r0.config.sections import Count, Section, Share, key
from r0.config.types import DataText, ModelText, PathText, Seed

STUDENT = "BAAI/bge-reranker-v2-m3"


class DistillTripletsConfig(Section):
    """Build triplets from a teacher's scores: query, positive, negative, difference of the scores."""

    data: PathText = key(..., "a teacher's scores, as `distill score` writes them")
    output: PathText = key(..., "file for the triplets (JSONL)")
    source: PathText | None = key(None, "the data that was scored, to check the scores against")
    max_per_query: Count | None = key(None, "maximum triplets per query, drawn by seed; empty: all")
    seed: Seed = key(42, "seed of the draw")
    skip_bad: bool = key(False, "skip bad lines; count and list them")


class DistillTrainConfig(FinetuneConfig):
    """Train a student on a teacher's scores: MarginMSE on triplets, or listwise KL on scores. The keys are those of finetune."""

    HITS: ClassVar[str] = "scored"

    model: ModelText = key(STUDENT, "student to start from: a folder, or a name on the Hugging Face Hub")
    data: DataText = key(..., "triplets from `distill triplets` (margin_mse), or scores from `distill score` (listwise_kl)")
    validation_share: Share = key(0.1, "share of the queries in data (by hash) used for validation instead of training")
