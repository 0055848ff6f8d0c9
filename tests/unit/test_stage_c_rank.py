"""A micro-batch of lists waits for the device nowhere; the parts of the loss are summed up once a step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from r0.algos.score_losses import SCORE_LOSSES, ScoreLossSettings, score_losses
from r0.supervised.stage_c import rank as ranks
from r0.supervised.stage_c.rank import _Trainer

SIZES, VOCAB = [3, 2, 1], 11
PARTS = ScoreLossSettings(dict.fromkeys(SCORE_LOSSES, 1.0))


def trainer() -> _Trainer:
    made = object.__new__(_Trainer)
    made._losses, made._kl_coef, made._temperature, made._sums, made._step = PARTS, 0.1, 1.0, {}, {}
    return made


def micro_batch(seed: int) -> tuple[dict, torch.Tensor]:
    """Inputs, and the logits that the model gives for documents and completions."""
    torch.manual_seed(seed)
    documents, lists = sum(SIZES), len(SIZES)
    inputs = {
        "scored": {"which": 0}, "words": torch.tensor([[3, 4]] * documents), "targets": torch.rand(documents).round(decimals=1),
        "sizes": SIZES, "sampled": {"which": 1}, "sampled_ids": torch.randint(VOCAB, (lists, 4)),
        "start_logprobs": -torch.rand(lists, 4), "weights": torch.full((lists, 4), 0.25), "answer_token": torch.zeros(lists, 4),
        "answer_words": torch.tensor([[3, 4]] * lists),
    }  # fmt: skip
    return inputs, torch.randn(documents + lists, 5, VOCAB, requires_grad=True)


def model_of(logits: torch.Tensor):
    documents = sum(SIZES)
    return lambda which: SimpleNamespace(logits=logits[documents:] if which else logits[:documents])


def test_no_list_waits_for_the_device(monkeypatch):
    made, (inputs, logits) = trainer(), micro_batch(0)
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
            patch.setattr(torch.Tensor, name, lambda *_: pytest.fail("waits for the device"))
        made.compute_loss(model_of(logits), inputs).backward()
    assert float(logits.grad.abs().max()) > 0


def test_the_parts_of_a_step_are_means_over_its_lists(monkeypatch):
    made = trainer()
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.mul_(2))  # another rank with the same lists
    want = dict.fromkeys(SCORE_LOSSES, 0.0)
    for seed in (0, 1):
        inputs, logits = micro_batch(seed)
        made.compute_loss(model_of(logits), inputs)
        last = logits[: sum(SIZES), -1]
        scores = (last[:, 3] - last[:, 4]).detach().split(SIZES)
        for score_N, label_N in zip(scores, inputs["targets"].split(SIZES), strict=True):
            for name, value in score_losses(score_N, label_N, PARTS).items():
                want[name] += value.item() / (2 * len(SIZES))
    made.close_step()
    found = made.step_values()
    assert {name: pytest.approx(value, rel=1e-5) for name, value in want.items()} == {name: found[name] for name in want}
    assert found["kl"] > 0
    assert made._sums == {}
    assert ranks.sum_over_ranks({"a": 1, "b": torch.tensor(2.0)}) == {"a": 2.0, "b": 4.0}
