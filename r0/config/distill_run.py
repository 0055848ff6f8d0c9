"""Keys of what a student gained, and of a whole distillation in one command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from r0.config.commands import OutputKeys
from r0.config.distill_train import STUDENT
from r0.config.finetune import FinetuneConfig
from r0.config.ranking import Names, ScoringKeys
from r0.config.sections import Count, RaySection, Section, Share, key

Table = Literal["text", "markdown", "json"]


class DistillEvalConfig(OutputKeys, ScoringKeys):
    """A student before and after: MAP, MRR@10, nDCG@10 on lists that were not trained on. The keys of scoring hold for both."""

    ALIASES: ClassVar[Mapping[str, str]] = {"after": "model", "test": "data"}

    model: str = key(..., "the student after training")
    before: str | None = key(None, "the student before training; empty: no gain is shown")
    data: str = key(..., "labelled lists of queries that were not trained on: what `distill score` reads, or `builtin`")
    builtin_rows: Count = key(200, "lists generated for data=builtin, by seed: give another one than the training had")
    teacher_scores: str | None = key(None, "the teacher's scores of the same lists (`distill score`): its measures beside them")
    seen: Names = key((), "training data (JSONL): test queries that are in it are left out and counted", strict=False)
    thinking: bool | None = key(False, "of a language model that is no CrossEncoder: its score after a thought, or at once")
    format: Table = key("text", "how the table is printed")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")


class TeacherSection(ScoringKeys):
    """The teacher, by the keys of `distill score`."""

    model: str = key(..., "teacher: a folder, or a name on the Hugging Face Hub")

    @model_validator(mode="after")
    def _check_ray(self) -> Self:
        if self.ray != RaySection():
            raise ValueError("ray: the section ray holds for all four steps; give its keys without teacher.")
        return self


class DistillConfig(FinetuneConfig):
    """Distillation in one command: score, triplets, train, eval. Keys without a section are the student's, as in finetune."""

    model: str = key(STUDENT, "student to start from: a folder, or a name on the Hugging Face Hub")
    teacher: TeacherSection = key(..., "who is learned from")
    data: str = key(..., "labelled lists that the teacher scores: what `distill score` reads, or `builtin`")
    test: str | None = key(None, "like data, of other queries, for before and after; read by the evaluation alone; empty: none")
    loss_type: Literal["margin_mse", "listwise_ce"] | None = key(
        "margin_mse", "margin_mse: from triplets; listwise_kl (another name of listwise_ce): from the scores of the lists"
    )
    max_per_query: Count | None = key(None, "margin_mse: triplets of a query, at most, drawn by seed; empty: all")
    validation_share: Share = key(0.1, "share of the queries in data (by hash) that validate instead of being trained on")
    format: Table = key("text", "how the table of gains is printed")

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if self.validation is not None:
            raise ValueError("validation: a share of the training queries validates here; use validation_share")
        for name in ("min_label", "max_label"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: is a bound of finetune's labels; leave it out")
        if self.data_type != "auto":
            raise ValueError("data_type: follows from loss_type; leave it out")
        if self.test is not None and self.test == self.data != "builtin":
            raise ValueError("test: is what is trained on; give lists of other queries")
        return self


def keys_in_common(config: Section, other: type[Section]) -> dict[str, object]:
    """The keys of ``config`` that ``other`` has too, by name; a preset is in them already."""
    names = [name for name in type(config).model_fields if name in other.model_fields and name != "model_preset"]
    return {name: getattr(config, name) for name in names}
