"""Keys of what a student gained, and of a whole distillation in one command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from r0.config.distill_train import DistillTrainConfig
from r0.config.finetune import FinetuneConfig
from r0.config.ranking import Names, ScoringKeys
from r0.config.sections import Count, Share, key


class DistillEvalConfig(ScoringKeys):
    """A student before and after: MAP, MRR@10 and nDCG@10 on lists that were not trained on. The keys of scoring hold for both."""

    ALIASES: ClassVar[Mapping[str, str]] = {"after": "model", "test": "data"}

    model: str = key(..., "the student after training")
    before: str | None = key(None, "the student before training; empty: no gain is shown")
    data: str = key(..., "labelled lists of queries that were not trained on, as `distill score` reads them")
    teacher_scores: str | None = key(None, "the teacher's scores of the same lists, of `distill score`: its measures beside them")
    seen: Names = key((), "training data (JSONL): test queries that are in it are left out and counted", strict=False)
    thinking: bool | None = key(False, "of a language model that is no CrossEncoder yet: a score after a thought, or at once")
    format: Literal["text", "markdown", "json"] = key("text", "how the table is printed")
    output: str | None = key(None, "folder for the scores and the table; empty: runs/distill_eval-<hash of the configuration>")
    fresh: bool = key(False, "start over: what the output folder holds of this run is deleted")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")


class TeacherSection(ScoringKeys):
    """The teacher: keys of `distill score`."""

    model: str = key(..., "teacher: a folder, or a name on the Hugging Face Hub")


class DistillConfig(FinetuneConfig):
    """Distillation in one command: the teacher's scores, triplets, training, evaluation. Keys without a section are the student's."""

    teacher: TeacherSection = key(..., "the teacher")
    data: str = key(..., "what the teacher scores and the student learns: labelled lists, as `distill score` reads them")
    test: str | None = key(None, "like data, of other queries: before and after are measured on it; empty: no evaluation")
    loss_type: Literal["margin_mse", "listwise_ce"] | None = key(
        "margin_mse", "margin_mse: from triplets; listwise_kl (another name of listwise_ce): from the scores of the lists"
    )
    max_per_query: Count | None = key(None, "margin_mse: triplets of a query, at most, drawn by seed; empty: all")
    validation_share: Share = key(0.1, "share of the queries in data (by hash) that validate instead of being trained on")
    format: Literal["text", "markdown", "json"] = key("text", "how the table of gains is printed")

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if self.validation is not None:
            raise ValueError("validation: a share of the training queries validates; use validation_share, or the four commands")
        if self.test is not None and self.test == self.data:
            raise ValueError("test: is what is trained on; give lists of other queries")
        return self

    def training(self, data: str, output: str) -> DistillTrainConfig:
        """The training step, on what came of the teacher's scores."""
        names = DistillTrainConfig.model_fields.keys() & set(self.model_dump())
        return DistillTrainConfig(**{name: getattr(self, name) for name in names} | {"data": data, "output": output})
