"""What MTEB wants to know of a reranker that it evaluates."""

from __future__ import annotations

import json
from typing import Any

from r0.config import RankingKeys
from r0.rerank.vector_cache import model_hash
from r0.runs.resolved import flat, may_change
from r0.storage.models import local_folder, model_folder


def model_meta(keys: RankingKeys) -> Any:
    """The ``mteb.ModelMeta`` of a reranker. MTEB keeps results by name and revision, so the revision is a hash of the weights and
    of the settings that scores depend on.

    Raises:
        ImportError: mteb is not installed.
        UserError: the model cannot be read.
    """
    from mteb.models import ModelMeta

    folder = model_folder(keys.model)
    name = keys.model if local_folder(keys.model) is None else f"r0/{folder.name}"
    settings = {name: value for name, value in flat(keys).items() if name != "model" and not may_change(name)}
    revision = model_hash(folder, json.dumps(settings, sort_keys=True))
    return ModelMeta.create_empty({"name": name, "revision": revision, "framework": ["PyTorch"], "model_type": ["cross-encoder"]})
