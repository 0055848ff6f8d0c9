"""Validation during ``finetune``: the loss, and ranking metrics of each query's documents.

Dimensions: P pairs of all validation queries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset

from r0.config import FinetuneConfig
from r0.ranking import groups_of, ndcg, reciprocal_rank
from r0.supervised.finetune.data import VALIDATION, VALIDATION_LOSS
from r0.supervised.finetune.trainer import Trainer
from r0.supervised.training.job import Job, micro_batch
from r0.supervised.training.ranks import sum_over_ranks, to_device
from r0.supervised.training.validation import batches_of_this_rank

CUTOFF = 10  # of nDCG
PAIRS = 32  # pairs per forward pass


class HeldOut:
    """Evaluates the model of ``trainer`` on the validation data of a job."""

    def __init__(self, trainer: Trainer, job: Job[FinetuneConfig]):
        self._trainer, self._config, data = trainer, job.config, Path(job.run) / "data"
        self._queries = Dataset.from_file(str(data / VALIDATION))
        self._examples = Dataset.from_file(str(data / VALIDATION_LOSS))

    def figures(self) -> dict[str, float]:
        """Metrics by name; collective. Every rank computes its share and gets all metrics."""
        with torch.random.fork_rng(enabled=True):
            torch.manual_seed(self._config.seed)  # in-batch negatives are drawn at random: use the same ones every time
            return {"heldout/loss": self._loss(), **self._order()}

    def _loss(self) -> float:
        """Mean loss per validation example. All ranks compute equally many batches; dummy batches are ignored."""
        trainer = self._trainer
        loss, count = 0.0, 0
        for mine, dummy in batches_of_this_rank(len(self._examples), micro_batch(self._config)):
            batch = trainer._prepare_inputs(trainer.data_collator([self._examples[place] for place in mine]))
            value: Any = trainer.compute_loss(trainer.model, batch)
            if not dummy:
                loss += value.item() * len(mine)
                count += len(mine)
        total = sum_over_ranks({"loss": loss, "count": count})
        return total["loss"] / max(1.0, total["count"])

    def _order(self) -> dict[str, float]:
        """nDCG@10 and reciprocal rank of the first relevant document, averaged over queries whose documents differ in label.

        A document is relevant if its label is above the middle of the query's smallest and largest label.
        """
        scores_P = self._scores().tolist()
        start, found = 0, []
        for labels in self._queries["labels"]:
            scores, start = scores_P[start : start + len(labels)], start + len(labels)
            if len(set(labels)) < 2:
                continue
            groups = groups_of(scores)
            middle = (min(labels) + max(labels)) / 2
            relevant = {place for place, label in enumerate(labels) if label > middle}
            gain = ndcg([label - min(0.0, *labels) for label in labels], groups, CUTOFF)
            found.append((gain, reciprocal_rank(relevant, groups)))
        if not found:
            return {}
        gains, reciprocal = zip(*found, strict=True)
        return {"heldout/ndcg@10": sum(gains) / len(found), "heldout/mrr": sum(reciprocal) / len(found)}

    def _scores(self) -> torch.Tensor:
        """Logits [P] of all validation documents, query by query, on every rank."""
        lengths = [len(labels) for labels in self._queries["labels"]]
        places = [(query, document) for query, length in enumerate(lengths) for document in range(length)]
        device = self._trainer.args.device
        scores_P = torch.zeros(len(places), dtype=torch.float64, device=device)
        model = self._trainer.cross_encoder
        for mine, dummy in batches_of_this_rank(len(places), PAIRS):
            rows = [self._queries[places[place][0]] for place in mine]
            pairs = [(row["query"], row["documents"][places[place][1]]) for row, place in zip(rows, mine, strict=True)]
            scores = self._trainer.model(to_device(model.preprocess(pairs), device))["scores"].reshape(-1)
            if not dummy:
                scores_P[mine[0] : mine[-1] + 1] = scores.double()
        dist.all_reduce(scores_P)
        return scores_P
