"""Keys of hard-negative mining."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from r0.config.sections import Count, NonNegative, Positive, RaySection, RolloutSection, Section, Share, check_engines, key


class MineConfig(Section):
    """Hard negatives for the queries of a collection, from what BM25, a dense model, a run or a reranker ranks high."""

    data: str = key(
        ..., "BEIR folder; or a JSONL file of groups {query, hits: [{content, label}]} or [query, positives, negatives], whose "
        "documents together are the corpus"
    )  # fmt: skip
    qrels: str = key("train", "judgements of a BEIR folder: a file, or a split (qrels/<split>.tsv)")
    relevance_threshold: Positive = key(1.0, "documents with a label of at least this are positives")
    source: Literal["bm25", "dense", "run"] = key(
        "bm25", "what ranks the corpus for a query: bm25; dense (model=); run: the candidates and scores of a TREC run (run=)"
    )
    model: str | None = key(None, "dense: a SentenceTransformer, as a folder or a name on the Hugging Face Hub")
    run: str | None = key(None, "run: a TREC run over the BEIR folder")
    reranker: str | None = key(
        None, "a model of r0 or a cross-encoder that scores the first `depth` documents and the positives, one by one; ranks and "
        "scores are then its"
    )  # fmt: skip
    depth: Count = key(100, "documents of the source that the reranker scores for each query")
    thinking: bool | None = key(None, "reranker: as in `rerank` with method=pointwise")
    ranks: tuple[str, ...] = key(
        ("10-100",), "ranks from-to that negatives are taken from, counted from 1, both included. Several, one an epoch, are a "
        "rising difficulty: 50-100,20-50,1-20; the files are then numbered", strict=False
    )  # fmt: skip
    negatives: Count = key(7, "negatives of a query, at most")
    random_share: Share = key(0.0, "share of them that is drawn from the whole corpus, rounded to whole documents of each query")
    margin: NonNegative | None = key(
        None, "a negative's score is at most that of the query's lowest positive less this; 0: not above it. Empty: any score"
    )
    relative_margin: Share | None = key(None, "the same, less this share of the positive's score (its magnitude)")
    sampling: Literal["random", "top"] = key("random", "within the ranks: drawn, or the first ones")
    seed: Annotated[int, Field(ge=0)] = key(42, "of what is drawn")
    output: str | None = key(None, "folder for data/ with the mined files; empty: runs/mine-<hash of the configuration>")
    fresh: bool = key(False, "start over: what the output folder holds of this run is deleted")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")
    rollout: RolloutSection = key(RolloutSection(), "reranker: its workers")
    ray: RaySection = key(RaySection(), "reranker: where they run")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, needed in (("model", "dense"), ("run", "run")):
            given = getattr(self, name) is not None
            if given != (self.source == needed):
                remedy = "leave it out" if given else f"give {name}="
                raise ValueError(f"{name}: is for source={needed}, and source is {self.source}; {remedy}")
        check_engines(self.ray, self.rollout)
        if not self.ranks:
            raise ValueError("ranks: there is none; give a range such as 10-100")
        for text, (first, last) in zip(self.ranks, self.epochs, strict=True):
            if last - first + 1 < self.hard:
                raise ValueError(f"ranks: {text} has fewer than {self.hard} documents; widen it, or lower negatives")
            if self.reranker is not None and last > self.depth:
                raise ValueError(f"ranks: {text} goes beyond the {self.depth} documents that are scored; use depth={last}")
        return self

    @property
    def epochs(self) -> list[tuple[int, int]]:
        """The first and the last rank, from 1, of each epoch."""
        found = []
        for text in self.ranks:
            match = re.fullmatch(r"\s*(\d{1,9})\s*-\s*(\d{1,9})\s*", text)
            first, last = (int(match[1]), int(match[2])) if match else (0, 0)
            if not 1 <= first <= last:
                raise ValueError(f"ranks: {text!r} is no range of ranks; write from-to, such as 1-20")
            found.append((first, last))
        return found

    @property
    def drawn(self) -> int:
        """Negatives of a query from the whole corpus."""
        return round(self.negatives * self.random_share)

    @property
    def hard(self) -> int:
        """Negatives of a query from the ranks."""
        return self.negatives - self.drawn

    @property
    def deepest(self) -> int:
        """The last rank of all epochs."""
        return max(last for _, last in self.epochs)
