"""What the classes share: a reranker that is loaded when it is first used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from threading import Lock
from typing import Any, NamedTuple

from r0.rerank import Reranker


class Ranked(NamedTuple):
    """A document by its position in the given order; ``thought`` is empty if the model wrote none."""

    position: int
    score: float
    thought: str


class InProcess:
    """A reranker in this process. Threads take turns.

    Args:
        model: a model folder, a name on the Hugging Face Hub, r0-tiny, or a ``Reranker`` that is open already.
        settings: other arguments of ``Reranker``, such as ``{"method": "pointwise", "engine": "hf"}``.

    Attributes:
        name: the model's name.

    Raises:
        ValueError: settings are given with a ``Reranker``, which has its own.
    """

    def __init__(self, model: str | PathLike[str] | Reranker, settings: Mapping[str, Any]):
        if isinstance(model, Reranker) and settings:
            raise ValueError("settings: the given Reranker has its own settings; leave settings out, or give the model's name")
        self._given = model if isinstance(model, Reranker) else None
        self.name = model.keys.model if isinstance(model, Reranker) else fspath(model)
        self._reranker, self._settings, self._lock = self._given, dict(settings), Lock()

    def load(self) -> Reranker:
        """The reranker, loaded if it is not.

        Raises:
            UserError: the model cannot be used.
            ValueError: a setting is unknown or out of bounds.
        """
        with self._lock:
            return self._load()

    def rank(self, query: str, texts: Sequence[str], most: int | None) -> list[Ranked]:
        """The best ``most`` documents (None: all), best first.

        Raises:
            UserError: the model cannot be used, or the query is too long.
            TypeError: a text is not a ``str``.
        """
        if not texts:
            return []
        with self._lock:
            found = self._load().rank(query, texts, top_k=most)
        return [Ranked(one["corpus_id"], one["score"], one["thought"] or "") for one in found]

    def score(self, query: str, text: str) -> float:
        """The score of one document on its own.

        Raises:
            UserError: the model cannot be used, or the query is too long.
        """
        with self._lock:
            return float(self._load().predict((query, text)))

    def close(self) -> None:
        """Release the model, unless it was given open."""
        with self._lock:
            if self._reranker is not None and self._reranker is not self._given:
                self._reranker.close()
                self._reranker = None

    def _load(self) -> Reranker:
        if self._reranker is None:
            self._reranker = Reranker(self.name, **self._settings)
        return self._reranker


def missing(module: str, package: str) -> ImportError:
    """The error of a module whose library is not installed."""
    return ImportError(f"{module} needs {package}, which is not installed here; install it with `pip install {package}`")
