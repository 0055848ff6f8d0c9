"""The loss of each ``loss_type``: sentence-transformers' losses, configured to match the published formulas.

Dimensions: B queries of a micro-batch, M documents of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses
from sentence_transformers.cross_encoder.losses.lambda_loss import BaseWeightingScheme
from torch import Tensor, nn

from r0.config import FinetuneConfig

AT_ONCE = -1  # all documents of a micro-batch in one forward pass


class LabelGap(BaseWeightingScheme):
    """Weights with which ``LambdaLoss``, with natural logarithms, is RankNet weighted by the label gap and summed over pairs.

    Σ over pairs with r_i < r_j of (r_j − r_i) · log(1 + exp(s_i − s_j)), averaged over queries. LambdaLoss divides by the number
    of pairs of the micro-batch; the weights compensate for it. Labels must be at least 0.
    """

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """Weights [B, M, M] of the pairs in the order of the scores; ``true_sorted`` [B, M] are labels in that order."""
        gap_BMM = (true_sorted[:, :, None] - true_sorted[:, None, :]).clamp(min=0.0)
        return gap_BMM * (gap_BMM > 0).sum() / len(true_sorted)


def make_loss(model: CrossEncoder, config: FinetuneConfig) -> nn.Module:
    """The configured loss for ``model``."""
    makers: Mapping[str, Callable[[], nn.Module]] = {
        "pointwise_bce": lambda: losses.BinaryCrossEntropyLoss(model),
        "pointwise_mse": lambda: losses.MSELoss(model, activation_fn=nn.Sigmoid()),
        "pairwise_ranknet": lambda: losses.LambdaLoss(model, LabelGap(), reduction_log="natural", mini_batch_size=AT_ONCE),
        "listwise_ce": lambda: losses.ListNetLoss(model, mini_batch_size=AT_ONCE),
        "listwise_lambda": lambda: losses.LambdaLoss(model, mini_batch_size=AT_ONCE),
        "listwise_mle": lambda: losses.ListMLELoss(model, mini_batch_size=AT_ONCE, respect_input_order=False),
        "margin_mse": lambda: losses.MarginMSELoss(model),
        "in_batch_negatives": lambda: _in_batch(model, config),
    }
    return makers[str(config.loss_type)]()


def _in_batch(model: CrossEncoder, config: FinetuneConfig) -> nn.Module:
    """In-batch negatives with cached gradients, ``micro_batch_size`` pairs at a time; without caching, in one backward pass, if
    ranks share the model. The loss is the same."""
    if config.zero_stage or config.fsdp:
        return losses.MultipleNegativesRankingLoss(model, num_negatives=config.negatives)
    return losses.CachedMultipleNegativesRankingLoss(
        model, num_negatives=config.negatives, mini_batch_size=config.micro_batch_size
    )


def sees_whole_batch(loss_type: str) -> bool:
    """Whether a rank's share of an update must be one batch, because its queries are compared with one another."""
    return loss_type == "in_batch_negatives"
