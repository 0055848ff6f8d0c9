"""transformers' Trainer with the loss of a four-class reranker.

Dimensions: B rows of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from r0.supervised.esci.model import class_logits
from r0.supervised.training.ranks import OrderedTrainer


class EsciTrainer(OrderedTrainer):
    """Cross-entropy over the four label tokens."""

    def prepare(self, words: tuple[int, ...]) -> None:
        """Set the label tokens."""
        self._words = words
        self.model_accepts_loss_kwargs = False  # the loss is a mean over rows: accumulation divides it

    def class_logits(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Logits [B, 4] of the classes."""
        return class_logits(model, inputs, self._words)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The mean over the rows of a micro-batch."""
        loss = cross_entropy(self.class_logits(model, inputs["inputs"]), inputs["classes"])
        return (loss, None) if return_outputs else loss
