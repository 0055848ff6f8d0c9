"""A rank of stage C: lists, model, transformers' Trainer on DeepSpeed, the final model.

A list is one unit: all its documents are in one micro-batch, and its losses are means within it. All micro-batches of all ranks
hold equally many lists, so the mean over lists does not depend on how lists are distributed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from r0.algos.kl import k3
from r0.algos.score_losses import ScoreLossSettings, score_losses, weighted
from r0.config import StageCConfig
from r0.supervised.stage_c.examples import ListCollate, ListCounts, OpenLists
from r0.supervised.stage_c.folder import pair_tokenizer, write_modules
from r0.supervised.training.causal import causal_trainer
from r0.supervised.training.job import Channel, Job
from r0.supervised.training.ranks import OrderedTrainer, fit, silence_libraries, sum_over_ranks
from r0.supervised.training.save import causal_writer, save_final


def train_rank(job: Job[StageCConfig], channel: Channel) -> None:
    """Train as one rank of an initialised ``torch.distributed`` group, and save the final model with the others.

    Raises:
        UserError: the model or the data cannot be used.
    """
    silence_libraries()
    lists = OpenLists(job)
    trainer = causal_trainer(_Trainer, job, lists, ListCollate)
    trainer.prepare(job.config)

    def finish() -> dict[str, float]:
        figures = sum_over_ranks({**asdict(ListCounts()), **trainer.counts})
        write = causal_writer(pair_tokenizer(lists.list_prompter), lambda folder: write_modules(folder, lists.list_prompter))
        save_final(trainer, job, write)
        return figures

    fit(trainer, job, channel, finish)


class _Trainer(OrderedTrainer):
    """Computes the loss of lists, and sums its parts for the record."""

    def prepare(self, config: StageCConfig) -> None:
        """Set the loss from the configuration."""
        loss = config.loss
        self._losses = ScoreLossSettings(loss.weights, loss.listnet_temperature, loss.infonce_temperature)
        self._kl_coef, self._temperature = config.kl_coef, config.temperature
        self.model_accepts_loss_kwargs = False  # the loss is a mean over lists: accumulation divides it
        self._sums: dict[str, float | Tensor] = {}  # of a step; on the device, so that no list causes a synchronization
        self._step: dict[str, float] = {}
        self.add_callback(_Sums(self))

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The mean over the lists of a micro-batch."""
        logits_BV = model(**inputs["scored"]).logits[:, -1].float()
        yes_B, no_B = logits_BV.gather(1, inputs["words"]).unbind(dim=1)
        score_B = yes_B - no_B
        found: list[Tensor] = []
        sizes = inputs["sizes"]
        for score_N, label_N in zip(score_B.split(sizes), inputs["targets"].split(sizes), strict=True):
            parts = score_losses(score_N, label_N, self._losses)
            found.append(weighted(parts, self._losses))
            self._add(parts)
        loss = torch.stack(found).mean()
        self._add({"lists": float(len(found))})
        if self._kl_coef:
            other_B = logits_BV.logsumexp(dim=1) - torch.stack([yes_B, no_B]).logsumexp(dim=0)
            kl_G, other_G = self._kl(model, inputs)
            other_G = other_G + torch.stack([other_N.mean() for other_N in other_B.split(sizes)])
            loss = loss + self._kl_coef * (kl_G.mean() + other_G.mean())
            self._add({"kl": kl_G.sum(), "other_words": other_G.sum()})
        return (loss, None) if return_outputs else loss

    def _kl(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """[G] KL(start ‖ model) per token, estimated on completions of the starting model: k3 of the log-ratio, never negative.
        Its gradient is 0 while both models give the sampled tokens the same probabilities.

        At the answer token, training is meant to change which of yes and no is likelier. There the two are treated as one
        outcome, with probability 1 under the starting model: [G] −log(P(yes) + P(no)). The score depends on the difference of
        the two logits only, so without this term other words could become likelier than both.
        """
        logits_GCV = model(**inputs["sampled"]).logits[:, :-1].float() / self._temperature
        all_GC = logits_GCV.logsumexp(dim=2)
        logp_GC = logits_GCV.gather(2, inputs["sampled_ids"][:, :, None])[:, :, 0] - all_GC
        weights_GC, start_GC, answer_GC = inputs["weights"], inputs["start_logprobs"], inputs["answer_token"]
        # The logits of padding are arbitrary and must not reach the exponential.
        kl_GC = k3(start_GC, torch.where(weights_GC > 0, logp_GC, start_GC)) * weights_GC
        words_GC2 = inputs["answer_words"][:, None, :].expand(-1, logits_GCV.shape[1], -1)
        other_GC = all_GC - logits_GCV.gather(2, words_GC2).logsumexp(dim=2)
        return kl_GC.sum(dim=1), torch.where(answer_GC > 0, other_GC, 0.0).sum(dim=1)

    def _add(self, values: Mapping[str, float | Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + (value.detach().double() if isinstance(value, Tensor) else value)

    def close_step(self) -> None:
        """Compute means over the lists of the step on all ranks; collective."""
        names = [name for name, weight in self._losses.weights.items() if weight > 0]
        names += ["kl", "other_words"] if self._kl_coef else []
        total = sum_over_ranks({name: self._sums.get(name, 0.0) for name in [*names, "lists"]})
        self._step = {name: total[name] / max(1.0, total["lists"]) for name in names}
        self._sums = {}

    def step_values(self) -> dict[str, float]:
        """The unweighted parts of the loss."""
        return self._step


class _Sums(TrainerCallback):
    """Calls ``close_step`` on every rank before rank 0 reports the step."""

    def __init__(self, trainer: _Trainer):
        self._trainer = trainer

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """See ``_Trainer.close_step``."""
        self._trainer.close_step()
