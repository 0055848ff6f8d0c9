"""The configuration of ``annotate``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from r0.config.commands import DEFAULT_MODEL, OutputKeys, SourceKeys
from r0.config.models import ModelKeys
from r0.config.sections import Count, NonNegative, RaySection, RolloutSection, check_engines, key


class AnnotateConfig(OutputKeys, SourceKeys, ModelKeys):
    """A teacher writes a thought and a verdict for every (query, document) pair: what a warm start learns from."""

    data: str = key("builtin", "`builtin`, a JSONL file of rows, raw logs or rank_llm requests, or a BEIR folder (with run=)")
    model: str = key(DEFAULT_MODEL, "the teacher: a folder, or a name on the Hugging Face Hub")
    format: Literal["rows", "raw_log"] = key("rows", "what is written: pointwise rows, or a raw log (a line for each query)")
    samples: Count = key(
        1, "samples of a pair, at most: the first with a thought and a verdict that is the known label is kept, or with any "
        "verdict where no label is known"
    )  # fmt: skip
    temperature: NonNegative = key(0.6, "sampling temperature; 0 takes the likeliest token")
    seed: Annotated[int, Field(ge=0)] = key(42, "of sampling (and of data=builtin)")
    system_prompt: str = key("", "system message; empty: what the model was trained with, or r0's short labelling prompt")
    max_prompt_tokens: Count | None = key(None, "prompt budget; empty: 8192, or less where the model has fewer positions")
    max_new_tokens: Count = key(2048, "token limit of a completion; one that is cut has no verdict")
    rollout: RolloutSection = key(RolloutSection(), "sampling workers")
    ray: RaySection = key(RaySection(), "where they run")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.samples > 1 and self.temperature == 0.0:
            raise ValueError(f"samples: with temperature=0 all {self.samples} are the same; set temperature=0.6, or samples=1")
        check_engines(self.ray, self.rollout)
        return self
