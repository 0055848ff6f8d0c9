"""Keys of supervised fine-tuning of rerankers. The keys of RAG-Retrieval's training files are other names of r0's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from r0.config.commands import PlainRankKeys
from r0.config.sections import Count, Positive, Share, key, mirror_by, rewriting

DataType = Literal["auto", "pointwise", "grouped", "positives", "triplets", "scored"]
POINTWISE = ("pointwise_bce", "pointwise_mse")
LISTWISE = ("pairwise_ranknet", "listwise_ce", "listwise_lambda", "listwise_mle")
LOSSES = {  # kind of data → what can be learned from it
    "pointwise": POINTWISE,
    "grouped": (*LISTWISE, "margin_mse"),
    "positives": (*POINTWISE, *LISTWISE, "in_batch_negatives"),
    "triplets": ("margin_mse",),
    "scored": ("listwise_ce", "margin_mse", "pairwise_ranknet", "listwise_mle"),
}
SAME: Mapping[str, Mapping[object, object]] = {  # values that the files of others write, and r0's
    "loss_type": {"point_ce": "pointwise_bce", "point_mse": "pointwise_mse", "listwise_kl": "listwise_ce"},
    "dtype": {"no": "fp32", "fp16": "bf16"},
    "validation": {"None": None},
    "save_on_epoch_end": {0: False, 1: True},
}


def _short_for(values: dict[str, Any]) -> None:
    """Others' values become r0's; log_with and gradient_accumulation_steps become the keys that they are short for."""
    for name, same in SAME.items():
        value = values.get(name)
        if isinstance(value, str | int) and value in same:
            values[name] = same[value]
    mirror_by(values, "log_with")
    if values.get("validation") is not None:
        values.setdefault("validation_share", 0.0)
    steps = values.get("gradient_accumulation_steps")
    if isinstance(steps, int) and steps > 0:
        if "micro_batch_size" in values:
            raise ValueError("micro_batch_size: gradient_accumulation_steps makes batch_size say it; leave one of them out")
        micro, ranks = values.get("batch_size", 32), values.get("ranks", 1)
        if isinstance(micro, int) and isinstance(ranks, int):
            values |= {"gradient_accumulation_steps": None, "batch_size": micro * steps * ranks, "micro_batch_size": micro}


class FinetuneConfig(PlainRankKeys):
    """Supervised fine-tuning of a reranker on labelled documents, on Ray Train with sentence-transformers and DeepSpeed."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        "model_name_or_path": "model",
        "max_len": "max_prompt_tokens",
        "train_dataset": "data",
        "train_dataset_type": "data_type",
        "val_dataset": "validation",
        "val_dataset_type": "validation_type",
        "output_dir": "output",
        "epoch": "epochs",
        "lr": "learning_rate",
        "warmup_proportion": "warmup_ratio",
        "stable_proportion": "stable_ratio",
        "mixed_precision": "dtype",
        "num_max_checkpoints": "keep",
        "log_interval": "log_every",
    }

    HITS: ClassVar[str] = "grouped"  # what lines with hits are taken for

    model_type: Literal["auto", "bert_encoder", "llm_decoder", "yes_no"] = key(
        "auto",
        "bert_encoder: a pair in, a score head; llm_decoder: a decoder with a score head; yes_no: a decoder, logit of yes minus "
        "logit of no; auto: yes_no for a causal language model, else bert_encoder",
    )
    num_labels: Count = key(1, "logits of the score head; every loss here wants 1")
    data: str = key(
        "builtin", "`builtin` (lists with grades 0 to 2), or a JSONL file; with {} in its name a file an epoch, from 1 (`mine`)"
    )
    data_type: DataType = key(
        "auto",
        "rows {query, content, label}; groups {query, hits: [{content, label}]}; positives [query, positives, negatives]; "
        "triplets {query, positive, negative, score_diff}, as `distill triplets` writes them; scored: groups as `distill score` "
        "writes them, learned from by their score; auto: by the file's first line, hits being groups",
    )
    validation: str | None = key(None, "like data, for validation during training; queries that are in data are refused")
    validation_type: DataType = key("auto", "as data_type")
    validation_share: Share = key(0.0, "share of the queries in data (by hash) that validate instead of being trained on")
    min_label: float | None = key(None, "lowest label; of rows it becomes 0 (empty: 0), in groups it is a bound")
    max_label: float | None = key(None, "highest label; of rows it becomes 1 (empty: 1), in groups it is a bound")
    builtin_rows: Count = key(2000, "groups generated for data=builtin; validation=builtin has a tenth of them, other ones")
    loss_type: Literal[
        "pointwise_bce", "pointwise_mse", "pairwise_ranknet", "listwise_ce", "listwise_lambda", "listwise_mle", "margin_mse",
        "in_batch_negatives",
    ] | None = key(
        None,
        "rows: pointwise_bce, pointwise_mse. Groups: pairwise_ranknet (the sum over pairs, weighted by the gap of their "
        "labels), listwise_ce (one positive, or the softmax of the labels as target), listwise_lambda (nDCG), listwise_mle, "
        "margin_mse (labels are a teacher's scores). Positives: all but margin_mse, and in_batch_negatives. Triplets: "
        "margin_mse. Scored: the losses of groups but listwise_lambda, with the teacher's scores as labels. Empty: pointwise_bce "
        "for rows, pairwise_ranknet for groups, margin_mse for triplets, else listwise_ce. listwise_kl is another name of "
        "listwise_ce: they differ by the entropy of the target, which is constant",
    )  # fmt: skip
    teacher_temperature: Positive = key(
        1.0, "triplets and scored: a teacher's scores are divided by this before they are learned from"
    )
    train_group_size: Annotated[int, Field(ge=2)] = key(8, "documents of a training group; short groups repeat some")
    negatives: Count = key(
        4, "in_batch_negatives: documents of other queries that each is scored with (gradients are cached on plain ranks)"
    )
    shuffle_rate: Share = key(0.0, "share of the long documents whose thirds are put in another order")
    max_prompt_tokens: Count = key(512, "tokens of query and document together; longer documents are cut")
    query_format: str | None = key(None, "decoders: text around the query, as `query: {}`; empty: see document_format")
    document_format: str | None = key(
        None, "decoders: text around the document, as `document: {}`; with none of the four given, llm_decoder uses "
        "`query: {} document: {}`, and yes_no r0's own prompt with thinking switched off",
    )  # fmt: skip
    seq: str | None = key(None, "decoders: text between query and document")
    special_token: str | None = key(None, "decoders: text behind the document, where the score is read")
    system_prompt: str = key("", "yes_no in r0's own prompt: system message; empty: the model's own, or r0's")
    batch_size: Count = key(32, "rows (or groups) an update sees over all ranks; but see gradient_accumulation_steps")
    gradient_accumulation_steps: Count | None = key(
        None, "if given, batch_size is what a rank computes at one time, and an update sees batch_size × this × ranks"
    )
    fsdp: bool = key(False, "split weights, gradients and optimizer over the ranks by PyTorch's FSDP, in place of zero_stage")
    learning_rate: Positive = key(2e-5, "peak learning rate of AdamW")
    dtype: Literal["auto", "bf16", "fp32"] = key("auto", "auto: bf16 on a GPU, fp32 without; no means fp32, fp16 bf16")
    warmup_ratio: Share = key(0.1, "share of the steps in which the learning rate rises from 0")
    stable_ratio: Share = key(0.0, "share of the steps that follow at the peak; then it falls as a cosine")
    save_on_epoch_end: bool = key(True, "with save_every=0, a checkpoint at the end of each epoch; false: only at the end")
    log_with: Literal["wandb", "tensorboard"] | None = key(None, "short for tracking.wandb=online or tracking.tensorboard=true")

    _resolve = rewriting(_short_for)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_labels > 1:
            raise ValueError(f"num_labels: {self.num_labels} logits are not one score; use num_labels=1")
        if self.fsdp and self.zero_stage:
            raise ValueError(f"fsdp: zero_stage={self.zero_stage} splits the model over the ranks too; leave one of them out")
        if self.fsdp and self.ranks == 1:
            raise ValueError("fsdp: one rank has nobody to share the model with; set ranks=2 or more, or leave it out")
        if self.warmup_ratio + self.stable_ratio > 1:
            share = self.warmup_ratio + self.stable_ratio
            raise ValueError(f"stable_ratio: with warmup_ratio it is {share:g} of the steps, more than all; lower one")
        for name in ("query_format", "document_format"):
            text = getattr(self, name)
            if text is not None and text.count("{}") != 1:
                raise ValueError(f"{name}: {text!r} must have {{}} once, where the text goes")
        formats = {name: value for name in FORMATS if (value := getattr(self, name)) not in (None, "", "{}")}
        if self.model_type == "bert_encoder" and formats:
            raise ValueError(f"{next(iter(formats))}: is for decoders; with model_type=bert_encoder leave it out")
        if self.validation is not None and self.validation_share:
            raise ValueError("validation_share: a file for validation is given too; leave one of them out")
        return self


FORMATS = ("query_format", "document_format", "seq", "special_token")
