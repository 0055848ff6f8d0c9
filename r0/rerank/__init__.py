"""Reranking: orders the candidates of a first stage with a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r0.process.environment import prepare_environment

if TYPE_CHECKING:
    from r0.rerank.reranker import Reranker

__all__ = ["Reranker"]


def __getattr__(name: str) -> Any:
    """Import ``Reranker`` on first use: the methods in this package need neither engines nor tokenizers."""
    if name == "Reranker":
        prepare_environment()  # before torch is imported, so that start-up notices stay off the program's terminal
        from r0.rerank.reranker import Reranker

        return Reranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
