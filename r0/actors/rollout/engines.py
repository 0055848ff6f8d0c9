"""The engine that the settings name."""

from __future__ import annotations

from r0.actors.rollout.engine import Engine
from r0.actors.rollout.settings import EngineSettings


def make_engine(settings: EngineSettings) -> Engine:
    """The engine named by the settings.

    Raises:
        UserError: it is not installed, or the model has too few positions for prompt and completion.
    """
    if settings.engine == "hf":
        from r0.actors.rollout.hf_engine import HfEngine

        return HfEngine(settings)
    from r0.actors.rollout.vllm_engine import VllmEngine

    return VllmEngine(settings)
