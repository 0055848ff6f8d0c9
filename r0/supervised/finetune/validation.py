"""Validation during a fine-tuning: the loss, and how well scores order the documents of a query. Every rank takes its share.

Dimensions: P pairs of all validation queries.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState

from r0.config import FinetuneConfig
from r0.ranking import groups_of, ndcg
from r0.supervised.finetune.data import VALIDATION, VALIDATION_LOSS
from r0.supervised.training.job import Channel, Job, Kind, Report, micro_batch
from r0.supervised.training.ranks import sum_over_ranks

if TYPE_CHECKING:
    from r0.supervised.finetune.rank import Trainer

CUTOFF = 10  # of nDCG
PAIRS = 32  # scored at one time


class Validation(TrainerCallback):
    """Validates before the first step and whenever due; ``newest`` are the last figures."""

    def __init__(self, trainer: Trainer, job: Job[FinetuneConfig], channel: Channel):
        self._trainer, self._job, self._channel = trainer, job, channel
        self._every = job.config.eval_every or job.steps_per_epoch
        self.newest: dict[str, float] = {}
        data = Path(job.run) / "data"
        self._on = (data / VALIDATION).is_file()
        if self._on:
            self._queries = Dataset.from_file(str(data / VALIDATION))
            self._examples = Dataset.from_file(str(data / VALIDATION_LOSS))

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Before the first step of a run that is not resumed."""
        if state.global_step == 0:
            self._validate(0)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """When due, and after the last step."""
        if state.global_step % self._every == 0 or state.global_step == self._job.steps:
            self._validate(state.global_step)

    def _validate(self, step: int) -> None:
        if not self._on:
            return
        model = self._trainer.model_wrapped
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(enabled=True), self._trainer.compute_loss_context_manager():
            torch.manual_seed(self._job.config.seed)  # in-batch negatives are drawn: the same ones every time
            self.newest = {"heldout/loss": self._loss(), **self._order()}
        model.train()
        if dist.get_rank() == 0:
            self._channel.send(Report(Kind.EVALUATION, step, values=self.newest))

    def _loss(self) -> float:
        """Mean loss of a validation example. Ranks compute as many batches; those without a share of their own count nothing."""
        trainer, micro = self._trainer, micro_batch(self._job.config)
        loss, count = 0.0, 0
        for mine, dummy in shares(len(self._examples), micro, dist.get_rank(), dist.get_world_size()):
            batch = trainer._prepare_inputs(trainer.data_collator([self._examples[place] for place in mine]))
            value: Any = trainer.compute_loss(trainer.model, batch)
            if not dummy:
                loss += value.item() * len(mine)
                count += len(mine)
        total = sum_over_ranks({"loss": loss, "count": count})
        return total["loss"] / max(1.0, total["count"])

    def _order(self) -> dict[str, float]:
        """nDCG@10 and reciprocal rank of the first relevant document, means over the queries whose documents differ in label.

        A document is relevant from the middle of the query's labels on.
        """
        scores_P = self._scores().tolist()
        start, found = 0, []
        for labels in self._queries["labels"]:
            scores, start = scores_P[start : start + len(labels)], start + len(labels)
            if len(set(labels)) < 2:
                continue
            groups = groups_of(scores)
            middle = (min(labels) + max(labels)) / 2
            ranked = [place for group in groups for place in group]
            first = next(rank for rank, place in enumerate(ranked, 1) if labels[place] > middle)
            found.append((ndcg([label - min(0.0, *labels) for label in labels], groups, CUTOFF), 1 / first))
        if not found:
            return {}
        gains, reciprocal = zip(*found, strict=True)
        return {"heldout/ndcg@10": sum(gains) / len(found), "heldout/mrr": sum(reciprocal) / len(found)}

    def _scores(self) -> torch.Tensor:
        """Logits [P] of all validation documents, query by query; every rank has them all."""
        lengths = [len(labels) for labels in self._queries["labels"]]
        places = [(query, document) for query, length in enumerate(lengths) for document in range(length)]
        device = self._trainer.args.device
        scores_P = torch.zeros(len(places), dtype=torch.float64, device=device)
        model = self._trainer.cross_encoder
        for mine, dummy in shares(len(places), PAIRS, dist.get_rank(), dist.get_world_size()):
            rows = [self._queries[places[place][0]] for place in mine]
            pairs = [(row["query"], row["documents"][places[place][1]]) for row, place in zip(rows, mine, strict=True)]
            features = {name: _to(value, device) for name, value in model.preprocess(pairs).items()}
            scores = self._trainer.model(features)["scores"].reshape(-1)
            if not dummy:
                scores_P[mine[0] : mine[-1] + 1] = scores.double()
        dist.all_reduce(scores_P)
        return scores_P


def shares(count: int, micro: int, rank: int, world: int) -> list[tuple[list[int], bool]]:
    """This rank's batches of ``count`` examples, ``micro`` or fewer; True where a batch is only to keep step.

    Every rank has as many, and in each round as long ones: where ranks share the model a forward pass is collective, and a loss
    with in-batch negatives makes as many passes as its batch has negatives.
    """
    found, start = [], 0
    while start < count:
        size = max(1, min(micro, (count - start) // world))
        mine = list(range(start + rank * size, min(count, start + (rank + 1) * size)))
        found.append((mine or list(range(size)), not mine))
        start += size * world
    return found


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
