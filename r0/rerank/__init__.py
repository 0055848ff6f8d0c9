"""Reranking: orders the candidates of a first stage with a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r0.process.environment import quiet

if TYPE_CHECKING:
    from r0.rerank.reranker import Reranker

__all__ = ["Reranker"]


def __getattr__(name: str) -> Any:
    """Import ``Reranker`` on first use: the methods in this package need neither engines nor tokenizers."""
    if name == "Reranker":
        quiet()  # as the door does, before torch is imported: libraries' start-up notices are not for a program's terminal
        from r0.rerank.reranker import Reranker

        return Reranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
