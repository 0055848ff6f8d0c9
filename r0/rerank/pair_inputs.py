"""What callers of ``CrossEncoder.predict`` and ``rank`` pass and get back: texts, pairs in several shapes, tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np

from r0.data.fields import with_title

Pair: TypeAlias = Sequence[str]
Inputs: TypeAlias = Pair | Iterable[Pair]
Batch: TypeAlias = Mapping[str, Sequence[str]]

_IGNORED = frozenset({"batch_size", "device", "pool", "chunk_size", "num_workers"})
_NAMES = ("inputs", "sentences")  # of the pairs in versions of sentence-transformers


def check_others(others: Mapping[str, Any], known: frozenset[str] | None = _IGNORED) -> None:
    """Check the arguments of a call that have no effect here.

    Raises:
        ValueError: a prompt is given, which would have an effect in ``CrossEncoder``.
        TypeError: an argument is not ``known`` (None: any is).
    """
    for name in ("prompt", "prompt_name"):
        if others.get(name) is not None:
            raise ValueError(f"{name}: the text around a pair is a setting of the reranker; give system_prompt or query_format")
    unknown = () if known is None else sorted(set(others) - known - {"prompt", "prompt_name"})
    if unknown:
        raise TypeError(f"rank() got an unexpected argument {unknown[0]!r}")


def texts_of(documents: Iterable[str]) -> list[str]:
    """The documents as a list.

    Raises:
        TypeError: there is one text instead of several.
    """
    if isinstance(documents, str):
        raise TypeError("documents: give a list of texts, not one text")
    return list(documents)


def pairs_of(inputs: Inputs | None, others: Mapping[str, Any]) -> tuple[list[tuple[str, str]], bool]:
    """The (query, document) pairs of a call, and whether it gave one pair instead of several.

    Raises:
        TypeError: an input is not a pair of texts.
    """
    given = inputs if inputs is not None else next((others[name] for name in _NAMES if name in others), None)
    if given is None or isinstance(given, str):
        raise TypeError("give a (query, document) pair, or a list of such pairs")
    listed: list[Any] = list(given)
    single = bool(listed) and isinstance(listed[0], str)
    return [_pair(one, number) for number, one in enumerate([listed] if single else listed)], single


def _pair(given: Any, number: int) -> tuple[str, str]:
    texts = () if isinstance(given, str | Mapping) or not isinstance(given, Iterable) else tuple(given)
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"input {number} is not a pair of texts (query, document), but {str(given)[:60]!r}")
    return str(texts[0]), str(texts[1])


def lists_of(queries: Iterable[Batch], documents: Iterable[Batch]) -> list[tuple[str, str, list[str]]]:
    """(id, query, documents) of each query in MTEB's batches, where the pairs of a query follow one another.

    Without ids, equal texts are one query. A document with a title is as r0 reads it from a BEIR folder.

    Raises:
        ValueError: there are more queries than documents, or fewer.
    """
    asked = [pair for batch in queries for pair in zip(batch.get("id", batch["text"]), batch["text"], strict=True)]
    texts = [text for batch in documents for text in _document_texts(batch)]
    if len(asked) != len(texts):
        raise ValueError(f"{len(asked)} queries and {len(texts)} documents: give one query for each document")
    groups = groupby(zip(asked, texts, strict=True), key=lambda pair: pair[0])
    return [(str(one), query, [text for _, text in group]) for (one, query), group in groups]


def _document_texts(batch: Batch) -> Iterable[str]:
    if "title" in batch and "body" in batch:
        return map(with_title, batch["title"], batch["body"])
    return batch["text"]


def by_query(pairs: Sequence[tuple[str, str]], most: int) -> Iterator[list[int]]:
    """The numbers of the pairs with equal queries, at most ``most`` together."""
    of_query: dict[str, list[int]] = {}
    for number, (query, _document) in enumerate(pairs):
        of_query.setdefault(query, []).append(number)
    for numbers in of_query.values():
        yield from (numbers[start : start + most] for start in range(0, len(numbers), most))


def activated(logits: Sequence[float] | np.ndarray, activation: Callable[[Any], Any]) -> np.ndarray:
    """float64 [N] the scores that a function of tensors gives for the logits [N]."""
    import torch

    return activation(torch.tensor(np.asarray(logits, np.float64))).numpy()


def returned(scores_N: np.ndarray, single: bool, as_numpy: bool, as_tensor: bool) -> Any:
    """The scores as ``CrossEncoder.predict`` returns them: an array, a tensor or a list of tensors; one number if ``single``."""
    import torch

    found: Any = torch.from_numpy(scores_N) if as_tensor or not as_numpy else scores_N
    if not as_tensor and not as_numpy:
        found = list(found)
    return found[0] if single else found


def valid_text(text: str) -> str:
    """``text`` without lone surrogates, which no tokenizer takes."""
    if not isinstance(text, str):
        raise TypeError(f"queries and documents are texts, not {type(text).__name__}")
    return text.encode("utf-8", "replace").decode("utf-8")
