"""Keys of supervised fine-tuning of rerankers. The keys of RAG-Retrieval's training files are accepted as aliases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from r0.config.commands import PlainRankKeys
from r0.config.sections import Count, Positive, Share, key, mirror_by, rewriting
from r0.config.types import CountFrom2, DataText

DataType = Literal["auto", "pointwise", "grouped", "positives", "triplets", "scored"]
POINTWISE = ("pointwise_bce", "pointwise_mse")
LISTWISE = ("pairwise_ranknet", "listwise_ce", "listwise_lambda", "listwise_mle")
LOSSES = {  # kind of data → possible losses
    "pointwise": POINTWISE,
    "grouped": (*LISTWISE, "margin_mse"),
    "positives": (*POINTWISE, *LISTWISE, "in_batch_negatives"),
    "triplets": ("margin_mse",),
    "scored": ("listwise_ce", "margin_mse", "pairwise_ranknet", "listwise_mle"),
}
SAME: Mapping[str, Mapping[object, object]] = {  # key → {value in other tools' files: r0's value}
    "loss_type": {"point_ce": "pointwise_bce", "point_mse": "pointwise_mse", "listwise_kl": "listwise_ce"},
    "dtype": {"no": "fp32", "fp16": "bf16"},
    "validation": {"None": None},
    "save_on_epoch_end": {0: False, 1: True},
}


def _short_for(values: dict[str, Any]) -> None:
    """Convert other tools' values to r0's, and replace log_with and gradient_accumulation_steps by the keys they stand for."""
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
            raise ValueError("micro_batch_size: with gradient_accumulation_steps it is batch_size; remove one of the two")
        micro, ranks = values.get("batch_size", 32), values.get("ranks", 1)
        if isinstance(micro, int) and isinstance(ranks, int):
            values |= {"gradient_accumulation_steps": None, "batch_size": micro * steps * ranks, "micro_batch_size": micro}


class FinetuneConfig(PlainRankKeys):
    """Fine-tune a reranker on labelled documents, on Ray Train with sentence-transformers and DeepSpeed."""

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

    HITS: ClassVar[str] = "grouped"  # the data type of lines with hits

    model_type: Literal["auto", "bert_encoder", "llm_decoder", "yes_no"] = key(
        "auto",
        "bert_encoder: an encoder of the pair with a score head; llm_decoder: a decoder with a score head; yes_no: a decoder, "
        "scored by logit of yes minus logit of no; auto: yes_no for a causal language model, otherwise bert_encoder",
    )
    num_labels: Count = key(1, "number of logits of the score head; must be 1")
    data: DataText = key(
        "builtin",
        "`builtin` (lists with grades 0 to 2), a JSONL file ({} in its name is replaced by the epoch, from 1, as `mine` writes "
        "them), or the name of a data set of rows, such as hf:Tevatron/scifact/train",
    )
    data_type: DataType = key(
        "auto",
        "rows {query, content, label}; groups {query, hits: [{content, label}]}; positives [query, positives, negatives]; "
        "triplets {query, positive, negative, score_diff} from `distill triplets`; scored: groups from `distill score`, with "
        "teacher scores as labels; auto: determined by the file's first line (hits mean groups)",
    )
    validation: DataText | None = key(None, "validation data, in the formats of data; must not contain queries of data")
    validation_type: DataType = key("auto", "as data_type")
    validation_share: Share = key(0.0, "share of the queries in data (by hash) used for validation instead of training")
    min_label: float | None = key(None, "lowest possible label; for rows it is scaled to 0 (empty: 0)")
    max_label: float | None = key(None, "highest possible label; for rows it is scaled to 1 (empty: 1)")
    builtin_rows: Count = key(2000, "number of groups for data=builtin; validation=builtin has a tenth as many, different ones")
    loss_type: Literal[
        "pointwise_bce", "pointwise_mse", "pairwise_ranknet", "listwise_ce", "listwise_lambda", "listwise_mle", "margin_mse",
        "in_batch_negatives",
    ] | None = key(
        None,
        "training loss. Rows: pointwise_bce, pointwise_mse. Groups: pairwise_ranknet (sum over pairs, weighted by the difference "
        "of their labels), listwise_ce (target: the only positive, or the softmax of the labels), listwise_lambda (nDCG), "
        "listwise_mle, margin_mse (labels are teacher scores). Positives: the losses of rows and groups except margin_mse, and "
        "in_batch_negatives. Triplets: margin_mse. Scored: the losses of groups except listwise_lambda, with teacher scores as "
        "labels. Empty: pointwise_bce for rows, pairwise_ranknet for groups, margin_mse for triplets, otherwise listwise_ce. "
        "listwise_kl is an alias of listwise_ce: they differ by the entropy of the target, which is constant",
    )  # fmt: skip
    teacher_temperature: Positive = key(1.0, "triplets and scored: teacher scores are divided by this")
    train_group_size: CountFrom2 = key(8, "documents per training group; short groups repeat documents")
    negatives: Count = key(
        4, "in_batch_negatives: negatives from other queries per positive (with gradient caching on plain ranks)"
    )
    shuffle_rate: Share = key(0.0, "share of the long documents whose thirds are shuffled")
    max_prompt_tokens: Count = key(512, "maximum length of query and document together in tokens; documents are cut to fit")
    query_format: str | None = key(None, "decoders: text around the query, such as `query: {}`; empty: see document_format")
    document_format: str | None = key(
        None, "decoders: text around the document, such as `document: {}`; if none of the four formats is given, llm_decoder "
        "uses `query: {} document: {}`, and yes_no r0's prompt with thinking switched off",
    )  # fmt: skip
    seq: str | None = key(None, "decoders: text between query and document")
    special_token: str | None = key(None, "decoders: text after the document, at which the score is read")
    system_prompt: str = key("", "yes_no with r0's prompt: system message; empty: the one the model was trained with, or r0's")
    batch_size: Count = key(32, "rows (or groups) per update, over all ranks; but see gradient_accumulation_steps")
    gradient_accumulation_steps: Count | None = key(
        None, "if given, batch_size is per rank and forward pass, and an update has batch_size × this × ranks"
    )
    fsdp: bool = key(False, "shard weights, gradients and optimizer over the ranks with PyTorch's FSDP, instead of zero_stage")
    learning_rate: Positive = key(2e-5, "peak learning rate of AdamW")
    dtype: Literal["auto", "bf16", "fp32"] = key("auto", "precision; auto: bf16 on a GPU, otherwise fp32; no: fp32; fp16: bf16")
    warmup_ratio: Share = key(0.1, "share of the steps for warm-up, in which the learning rate rises from 0")
    stable_ratio: Share = key(0.0, "share of the steps after warm-up at the peak learning rate, before the cosine decay")
    save_on_epoch_end: bool = key(True, "with save_every=0: checkpoint at the end of each epoch; false: only at the end")
    log_with: Literal["wandb", "tensorboard"] | None = key(None, "alias of tracking.wandb=online or tracking.tensorboard=true")

    _resolve = rewriting(_short_for)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_labels > 1:
            raise ValueError(f"num_labels: the score is one logit, not {self.num_labels}; use num_labels=1")
        if self.fsdp and self.zero_stage:
            raise ValueError(f"fsdp: zero_stage={self.zero_stage} also shards the model; remove one of the two")
        if self.fsdp and self.ranks == 1:
            raise ValueError("fsdp: needs at least two ranks; set ranks=2 or more, or remove fsdp")
        if self.warmup_ratio + self.stable_ratio > 1:
            share = self.warmup_ratio + self.stable_ratio
            raise ValueError(f"stable_ratio: together with warmup_ratio it is {share:g}, above 1; lower one of the two")
        for name in ("query_format", "document_format"):
            text = getattr(self, name)
            if text is not None and text.count("{}") != 1:
                raise ValueError(f"{name}: {text!r} must contain {{}} exactly once, for the text")
        formats = {name: value for name in FORMATS if (value := getattr(self, name)) not in (None, "", "{}")}
        if self.model_type == "bert_encoder" and formats:
            raise ValueError(f"{next(iter(formats))}: applies to decoders only; remove it with model_type=bert_encoder")
        if self.validation is not None and self.validation_share:
            raise ValueError("validation_share: a validation file is given too; remove one of the two")
        return self


FORMATS = ("query_format", "document_format", "seq", "special_token")
