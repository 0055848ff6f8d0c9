"""Collates rows to a micro-batch: left-padded prompts and their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from r0.data.esci import EsciRow
from r0.supervised.esci.prompt import EsciPrompter
from r0.supervised.sft.examples import Collate, Example


class EsciCollate:
    """Tokenizes and pads.

    Args:
        prompter: of the model.
        logits_to_keep: whether the model supports the argument ``logits_to_keep``.
    """

    def __init__(self, prompter: EsciPrompter, logits_to_keep: bool):
        self._prompter = prompter
        self._collate = Collate(int(prompter.tokenizer.pad_token_id), logits_to_keep)

    def __call__(self, rows: Sequence[EsciRow]) -> dict[str, Any]:
        """``inputs`` (of the model) and ``classes`` [B]."""
        prompts = [self._prompter.ids(row.query, row.item) for row in rows]
        return {"inputs": self.inputs(prompts), "classes": torch.tensor([row.label for row in rows])}

    def inputs(self, prompts: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        """``input_ids``, ``attention_mask``, ``position_ids`` [B, T] of prompts [B], and ``logits_to_keep`` = 1."""
        padded: dict[str, Any] = dict(self._collate([Example(ids, (), cut=False, cut_prompt=False) for ids in prompts]))
        del padded["labels"]
        return padded
