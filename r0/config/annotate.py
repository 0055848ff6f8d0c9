"""The configuration of ``annotate``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from r0.config.commands import DEFAULT_MODEL, OutputKeys, SourceKeys
from r0.config.models import ModelKeys
from r0.config.sections import Count, NonNegative, RaySection, RolloutSection, check_engines, key
from r0.config.types import DataText, ModelText, Seed


class AnnotateConfig(OutputKeys, SourceKeys, ModelKeys):
    """Let a teacher write a thought and a verdict for each (query, document) pair, as training data for a warm start."""

    data: DataText = key(
        "builtin", "`builtin`, a JSONL file of rows, raw logs or rank_llm requests, a BEIR folder (with run=), or the name of a "
        "data set, such as hf:BeIR/scifact"
    )  # fmt: skip
    model: ModelText = key(DEFAULT_MODEL, "teacher model: a folder, or a name on the Hugging Face Hub")
    format: Literal["rows", "raw_log"] = key("rows", "output format: pointwise rows, or a raw log (one line per query)")
    samples: Count = key(
        1, "maximum samples per pair; the first with a thought and a verdict equal to the label is kept (with any verdict if "
        "the pair has no label)"
    )  # fmt: skip
    temperature: NonNegative = key(0.6, "sampling temperature; 0: greedy")
    seed: Seed = key(42, "seed of sampling (and of data=builtin)")
    system_prompt: str = key("", "system message; empty: the one the model was trained with, or r0's labelling prompt")
    max_prompt_tokens: Count | None = key(
        None, "maximum prompt length in tokens; empty: 8192, or less if the model has fewer positions"
    )
    max_new_tokens: Count = key(2048, "maximum completion length in tokens; a cut completion has no verdict")
    rollout: RolloutSection = key(RolloutSection(), "sampling workers")
    ray: RaySection = key(RaySection(), "where the workers run")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.samples > 1 and self.temperature == 0.0:
            raise ValueError(f"samples: with temperature=0 all {self.samples} are equal; set temperature=0.6, or samples=1")
        check_engines(self.ray, self.rollout)
        return self
