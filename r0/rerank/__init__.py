"""Using a trained model: the order that it gives to the candidates of a first stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r0.process.environment import quiet

if TYPE_CHECKING:
    from r0.rerank.reranker import Reranker

__all__ = ["Reranker"]


def __getattr__(name: str) -> Any:
    """``Reranker`` is imported when it is first named: the methods beside it need neither engines nor tokenizers."""
    if name == "Reranker":
        quiet()  # as the door does, before torch is imported: libraries' start-up notices are not for a program's terminal
        from r0.rerank.reranker import Reranker

        return Reranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
