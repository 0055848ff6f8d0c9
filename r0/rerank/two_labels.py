"""Cross-encoders with two labels, not relevant and relevant, as cross-encoders with one score.

The score before any activation is the difference of the two logits, whose sigmoid is the probability of the relevant label. The
output layer is linear, so one row, the difference of its two rows, gives this score. Label 1 is the relevant one, unless the
model's configuration names label 0 so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r0.errors import UserError
from r0.storage.model_checks import read_json

_RELEVANT = frozenset({"relevant", "yes", "true", "positive", "entailment"})
_LABELS = 2  # of a transformers configuration that does not say


def label_count(folder: Path) -> int:
    """The number of labels of the sequence classifier in ``folder``, by its configuration."""
    config = read_json(folder / "config.json")
    return len(config.get("id2label") or ()) or int(config.get("num_labels") or _LABELS)


def check_labels(folder: Path) -> None:
    """Refuse a sequence classifier with more than two labels.

    Raises:
        UserError: it has more, and no other module of sentence-transformers behind it could give one score.
    """
    if not (folder / "modules.json").is_file():
        refuse_labels(folder, label_count(folder))


def refuse_labels(model: Path | str, labels: int) -> None:
    """Refuse more than two labels.

    Raises:
        UserError: there are more.
    """
    if labels > 2:
        raise UserError(
            f"model: {model} gives {labels} scores per pair, but one (num_labels=1) orders documents, or the difference of two; "
            "use a model with one or two labels"
        )


def give_one_score(model: Any, name: Path | str) -> None:
    """Give a ``CrossEncoder`` with two labels one score; one that has a single score already is left alone.

    Raises:
        UserError: it has more than two labels, or no output layer of its own for them.
    """
    import torch

    refuse_labels(name, model.num_labels)
    if model.num_labels != 2:
        return
    layers = [
        (module, key, layer)
        for module in model.modules()
        for key, layer in module.named_children()
        if isinstance(layer, torch.nn.Linear) and layer.out_features == 2
    ]
    if len(layers) != 1:
        raise UserError(f"model: {name} has two labels and no linear output layer for them; use a model with num_labels=1")
    ((module, key, layer),) = layers
    config = model[0].model.config
    sign = -1.0 if _first_is_relevant(config) else 1.0
    one = torch.nn.Linear(layer.in_features, 1, layer.bias is not None, layer.weight.device, layer.weight.dtype)
    with torch.no_grad():
        one.weight.copy_(sign * layer.weight.float().diff(dim=0))
        if layer.bias is not None:
            one.bias.copy_(sign * layer.bias.float().diff())
    setattr(module, key, one)
    if getattr(module, "out_features", None) == 2:  # sentence-transformers' Dense
        module.out_features = 1
    if getattr(module, "num_labels", None) == 2:
        module.num_labels = 1
    config.num_labels = model[0].model.num_labels = 1


def _first_is_relevant(config: Any) -> bool:
    names = [str(config.id2label.get(label, "")).lower() for label in (0, 1)]
    return names[0] in _RELEVANT and names[1] not in _RELEVANT
