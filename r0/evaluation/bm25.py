"""BM25 over a corpus (bm25s, Lucene's variant; Kamphuis et al., 2020): a first stage without Java.

Words are those of ``r0.evaluation.words``, in lower case. Texts are streamed; only the ids of the documents,
their words as numbers, and the index are held in memory.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import Stemmer

from r0.errors import UserError
from r0.evaluation.words import words
from r0.runs.live import progress

# bm25s runs JAX when it is imported, where JAX is installed. On a GPU that takes most of the card, and fails if the card is full.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import bm25s
from bm25s.tokenization import Tokenizer


class Bm25:
    """An index of documents.

    Args:
        documents: (id, text) pairs; iterated once.
        k1: term saturation.
        b: length normalization, 0 to 1.
        stemmer: language of the Snowball stemmer.
        stopwords: language of the stopword list.

    Raises:
        UserError: no document contains a word.
    """

    def __init__(
        self,
        documents: Iterable[tuple[str, str]],
        k1: float = 1.5,
        b: float = 0.75,
        stemmer: Literal["english", "none"] = "none",
        stopwords: Literal["english", "none"] = "english",
    ):
        stem = None if stemmer == "none" else Stemmer.Stemmer(stemmer)
        self._tokenizer = Tokenizer(splitter=words, stopwords=None if stopwords == "none" else stopwords, stemmer=stem)
        self.document_ids: list[str] = []
        words_of_documents = _Words(
            self._tokenizer.streaming_tokenize(self._texts(documents), update_vocab=True, allow_empty=False)
        )
        vocabulary = len(self._tokenizer.get_vocab_dict())
        if not vocabulary:
            raise UserError("no document contains a word; give a corpus with texts")
        self._place = {document: at for at, document in enumerate(self.document_ids)}
        self._bm25 = bm25s.BM25(k1=k1, b=b, method="lucene", csc_backend="scipy")
        self._bm25.scores = self._bm25.build_index_from_ids(range(vocabulary), words_of_documents, show_progress=False)

    def __len__(self) -> int:
        return len(self.document_ids)

    def __contains__(self, document_id: object) -> bool:
        return document_id in self._place

    def search(self, query: str, depth: int) -> list[tuple[str, float]]:
        """(document id, score) of the best ``depth`` documents with a word of the query; equal scores by id, descending."""
        scores_D = self._scores(query)
        found = np.flatnonzero(scores_D > 0)
        if len(found) > depth:
            least = np.partition(scores_D, -depth)[-depth]
            found = np.flatnonzero(scores_D >= least)  # all documents tied for the last place; ids decide among them
        return self._ordered(found, scores_D)[:depth]

    def rank(self, query: str, document_ids: Sequence[str]) -> list[tuple[str, float]]:
        """(document id, score) of all given documents, including those without a word of the query; equal scores as in
        ``search``.

        Raises:
            KeyError: a document is not in the corpus.
        """
        scores_D = self._scores(query)
        return self._ordered(np.array([self._place[document] for document in document_ids], np.int64), scores_D)

    def _scores(self, query: str) -> np.ndarray:
        """float32 [documents]."""
        (ids,) = self._tokenizer.streaming_tokenize([query], update_vocab=False, allow_empty=False)
        return self._bm25.get_scores_from_ids(ids)

    def _ordered(self, places: np.ndarray, scores_D: np.ndarray) -> list[tuple[str, float]]:
        pairs = zip(scores_D[places].tolist(), (self.document_ids[place] for place in places.tolist()), strict=True)
        return [(document, score) for score, document in sorted(pairs, reverse=True)]

    def _texts(self, documents: Iterable[tuple[str, str]]) -> Iterator[str]:
        for document_id, text in documents:
            self.document_ids.append(document_id)
            yield text


class _Words:
    """The words of each document as numbers, 4 bytes per word; yields one list per document on iteration."""

    def __init__(self, documents: Iterable[list[int]]):
        self._words, self._ends = array("i"), array("q", [0])
        for document in documents:
            self._words.extend(document)
            self._ends.append(len(self._words))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[list[int]]:
        for at in progress(range(len(self)), "indexing"):
            yield self._words[self._ends[at] : self._ends[at + 1]].tolist()
