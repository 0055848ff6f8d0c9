"""Keys of measuring a student's gain, and of a whole distillation in one command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from r0.config.commands import OutputKeys
from r0.config.distill_train import STUDENT
from r0.config.finetune import FinetuneConfig
from r0.config.ranking import ScoringKeys
from r0.config.sections import Count, RaySection, Section, Share, key
from r0.config.types import DataText, ModelText

Table = Literal["text", "markdown", "json"]


class DistillEvalConfig(OutputKeys, ScoringKeys):
    """Measure MAP, MRR@10 and nDCG@10 of a student before and after training, on unseen lists. The scoring keys apply to both
    models.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"after": "model", "test": "data"}

    model: ModelText = key(..., "the student after training")
    before: ModelText | None = key(None, "the student before training; empty: no gain is shown")
    data: DataText = key(..., "labelled lists of unseen queries, in a format that `distill score` reads, or `builtin`")
    builtin_rows: Count = key(200, "number of lists generated for data=builtin; use another seed than in training")
    teacher_scores: DataText | None = key(
        None, "the teacher's scores of the same lists (`distill score`), to show its measures too"
    )
    seen: tuple[DataText, ...] = key(
        (), "training data (JSONL); test queries that occur in it are dropped and counted", strict=False
    )
    thinking: bool | None = key(False, "language models that are not CrossEncoders: score after a thought, or without one")
    format: Table = key("text", "format of the printed table")
    skip_bad: bool = key(False, "skip bad lines; count and list them")


class TeacherSection(ScoringKeys):
    """The teacher, with the keys of `distill score`."""

    model: ModelText = key(..., "teacher model: a folder, or a name on the Hugging Face Hub")

    @model_validator(mode="after")
    def _check_ray(self) -> Self:
        if self.ray != RaySection():
            raise ValueError("ray: the top-level section ray applies to all four steps; write its keys without teacher.")
        return self


class DistillConfig(FinetuneConfig):
    """Distill in one command: score, triplets, train, eval. Top-level keys configure the student, as in finetune."""

    model: ModelText = key(STUDENT, "student to start from: a folder, or a name on the Hugging Face Hub")
    teacher: TeacherSection = key(..., "the teacher")
    data: DataText = key(..., "labelled lists that the teacher scores, in a format that `distill score` reads, or `builtin`")
    test: DataText | None = key(
        None, "test lists of other queries, in the same formats; used only for the evaluation; empty: none"
    )
    loss_type: Literal["margin_mse", "listwise_ce"] | None = key(
        "margin_mse", "margin_mse: from triplets; listwise_kl (alias of listwise_ce): from the scores of the lists"
    )
    max_per_query: Count | None = key(None, "margin_mse: maximum triplets per query, drawn by seed; empty: all")
    validation_share: Share = key(0.1, "share of the queries in data (by hash) used for validation instead of training")
    format: Table = key("text", "format of the printed table of gains")

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if self.validation is not None:
            raise ValueError("validation: a share of the training queries is used for validation; set validation_share instead")
        for name in ("min_label", "max_label"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: only applies to finetune; remove it")
        if self.data_type != "auto":
            raise ValueError("data_type: is determined by loss_type; remove it")
        if self.test is not None and self.test == self.data != "builtin":
            raise ValueError("test: is the same as data; give lists of other queries")
        return self


def keys_in_common(config: Section, other: type[Section]) -> dict[str, object]:
    """The keys of ``config`` that ``other`` also has, by name; preset values are already included."""
    names = [name for name in type(config).model_fields if name in other.model_fields and name != "model_preset"]
    return {name: getattr(config, name) for name in names}
