"""A dense source: a sentence-transformers ``SentenceTransformer`` ranks all documents exactly, by its own similarity function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r0.errors import UserError, reason
from r0.mining.collection import Collection, Query
from r0.mining.ranked import Ranked, best_of
from r0.rerank.prompt_budget import check_encoder
from r0.runs.live import progress
from r0.storage.loading import LOADING
from r0.storage.model_checks import read_json
from r0.storage.models import model_folder
from r0.text.tags import control_token_texts, escape_control_tokens

DOCUMENTS_A_CHUNK, QUERIES_A_CHUNK = 1024, 64  # documents embedded at once; queries scored against the corpus at once


class DenseSource:
    """Embeds all documents, keeps the embeddings in memory (4 bytes per dimension), and compares each query with all of them.

    Raises:
        UserError: the model cannot be found, or is a cross-encoder.
    """

    def __init__(self, model: str, collection: Collection):
        self.name, self._collection, self._folder = model, collection, model_folder(model)
        check_dense(self._folder)

    def ranked(self, queries: Sequence[Query], depth: int) -> Iterator[Ranked]:
        """See ``Source``.

        Raises:
            UserError: sentence-transformers cannot load the model, or a similarity is not finite.
        """
        embedder, documents = _Embedder(self._folder), self._collection.documents
        starts = progress(range(0, len(documents), DOCUMENTS_A_CHUNK), "embedding")
        chunks = (documents.ids[start : start + DOCUMENTS_A_CHUNK] for start in starts)
        corpus_DH = np.concatenate([embedder.documents([documents.text(name) for name in chunk]) for chunk in chunks])
        return self._ranked(embedder, corpus_DH, queries, depth)

    def _ranked(self, embedder: _Embedder, corpus_DH: np.ndarray, queries: Sequence[Query], depth: int) -> Iterator[Ranked]:
        ids = self._collection.documents.ids
        place = {name: at for at, name in enumerate(ids)}
        similarities = embedder.similarities(corpus_DH)
        for start in range(0, len(queries), QUERIES_A_CHUNK):
            some = queries[start : start + QUERIES_A_CHUNK]
            scores_QD = similarities([query.text for query in some])
            if not np.isfinite(scores_QD).all():
                raise UserError(f"model: {self.name} gives similarities that are not finite; use another model")
            for query, scores_D in zip(some, scores_QD, strict=True):
                positives = {name: float(scores_D[place[name]]) for name in query.positives}
                yield Ranked(*best_of(scores_D, ids, depth), positives)


class _Embedder:
    """A SentenceTransformer with its own prompts and similarity function."""

    def __init__(self, folder: Path):
        self._model = _load(folder)
        self._control = control_token_texts(self._model.tokenizer)
        self._cosine = self._model.similarity_fn_name == "cosine"  # of normalized embeddings: a dot product
        self._options = {"normalize_embeddings": self._cosine, "show_progress_bar": False}

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, H]."""
        return self._model.encode_document([escape_control_tokens(text, self._control) for text in texts], **self._options)

    def similarities(self, corpus_DH: np.ndarray) -> Callable[[Sequence[str]], np.ndarray]:
        """A function from queries [Q] to similarities: float32 [Q, D]."""
        import torch
        from sentence_transformers.util import dot_score

        corpus = torch.from_numpy(corpus_DH).to(self._model.device)
        similarity = dot_score if self._cosine else self._model.similarity

        def of(queries: Sequence[str]) -> np.ndarray:
            embedded = self._model.encode_query(
                [escape_control_tokens(query, self._control) for query in queries], **self._options
            )
            return similarity(torch.from_numpy(embedded).to(self._model.device), corpus).float().cpu().numpy()

        return of


def _load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(folder), local_files_only=True)
    except LOADING as error:
        raise UserError(f"model: {folder} cannot be loaded as a SentenceTransformer ({reason(error)}); give another") from error


def check_dense(folder: Path) -> None:
    """Refuse a model that gives no vectors, or is not whole.

    Raises:
        UserError: with what is wrong and the remedy.
    """
    if _scores_pairs(folder):
        raise UserError(f"model: {folder} is a cross-encoder; give it as reranker=, or give a SentenceTransformer")
    check_encoder(folder, body=True)


def _scores_pairs(folder: Path) -> bool:
    """Whether a model has a score head or was saved as a ``CrossEncoder``."""
    model, saved = (read_json(folder / name) for name in ("config.json", "config_sentence_transformers.json"))
    heads = any(name.endswith("ForSequenceClassification") for name in model.get("architectures") or [])
    return heads or saved.get("model_type") == "CrossEncoder"
