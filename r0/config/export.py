"""The configuration of ``export``."""

from __future__ import annotations

from typing import Literal

from r0.config.sections import Section, key
from r0.config.types import PathText


class ExportConfig(Section):
    """Make a trained model usable elsewhere: export MODEL to=sequence_classification, or export MODEL REPO to=hub."""

    model: PathText = key(..., "run directory, model folder, name on the Hugging Face Hub, or r0-tiny")
    repo: str | None = key(None, "with to=hub: name of the repository, such as `me/my-reranker`; created if missing")
    to: Literal["sequence_classification", "onnx", "hub"] = key(
        ...,
        "`sequence_classification`: a folder for sentence-transformers and vLLM's /v1/score; `onnx`: for onnxruntime; `hub`: the "
        "model as it is, uploaded",
    )
    output: PathText | None = key(None, "folder to write; empty: named after `to`, in the run or in the current folder")
    thinking: bool | None = key(
        None, "false: export a model that may think by its score without a thought, that of `rerank thinking=false`"
    )
    private: bool = key(True, "with to=hub: a repository that is created is private")
