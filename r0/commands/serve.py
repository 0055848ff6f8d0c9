"""``serve``: a trained model behind the rerank APIs that people's programs speak."""

from __future__ import annotations

import importlib.util

from r0.commands.plan import plan_serve
from r0.config import ServeConfig
from r0.errors import UserError
from r0.rerank.prompt_budget import check_model
from r0.storage.models import model_folder

NEEDS = ("fastapi", "uvicorn", "prometheus_client")


def run(config: ServeConfig, dry_run: bool, gpu_memory: float | None = None) -> int:
    """Serve, or print the plan. Returns the exit code: 0 after a stop.

    Raises:
        UserError: invalid input that can be detected before a model loads.
    """
    if dry_run:
        print(plan_serve(config, gpu_memory))
        return 0
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"serve needs {' and '.join(missing)}; install them, or vLLM, which brings them along")
    check_model(config.ranking(), model_folder(config.model))
    from r0.serve.server import serve

    return serve(config)
