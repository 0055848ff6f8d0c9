"""Keys of hard-negative mining."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import model_validator

from r0.config.ranking import IDENTICAL, IgnoreIdentical
from r0.config.sections import Count, NonNegative, Positive, RaySection, RolloutSection, Section, Share, check_engines, key
from r0.config.types import DataText, ModelText, PathText, Seed, TemplateVariables


class MineConfig(Section):
    """Mine hard negatives for the queries of a collection, from the top ranks of BM25, a dense model, a run or a reranker."""

    data: DataText = key(
        ..., "BEIR folder, or the name of a data set, such as hf:BeIR/scifact; or a JSONL file of groups {query, hits: [{"
        "content, label}]} or [query, positives, negatives], whose documents together are the corpus"
    )  # fmt: skip
    qrels: DataText = key("train", "judgements of a BEIR folder: a file, or a split (qrels/<split>.tsv)")
    relevance_threshold: Positive = key(1.0, "lowest label of a positive")
    source: Literal["bm25", "dense", "run"] = key(
        "bm25", "ranker of the corpus: bm25; dense (model=); run: the candidates and scores of a TREC run (run=)"
    )
    model: ModelText | None = key(None, "source=dense: a SentenceTransformer, as a folder or a name on the Hugging Face Hub")
    run: DataText | None = key(None, "source=run: a TREC run over the BEIR folder")
    reranker: ModelText | None = key(
        None, "an r0 model or a cross-encoder that rescores the first `depth` documents and the positives one by one, and so "
        "determines ranks and scores"
    )  # fmt: skip
    depth: Count = key(100, "documents per query that the reranker scores")
    thinking: bool | None = key(None, "reranker: as in `rerank` with method=pointwise")
    chat_template_kwargs: TemplateVariables = key({}, "reranker: as in `rerank`")
    ranks: tuple[str, ...] = key(
        ("10-100",), "range of ranks from which negatives are taken, from 1, both ends included. Several ranges, one per epoch, "
        "can increase the difficulty: 50-100,20-50,1-20; the files are then numbered", strict=False
    )  # fmt: skip
    negatives: Count = key(7, "maximum negatives per query")
    random_share: Share = key(0.0, "share of them that is drawn from the whole corpus, rounded to whole documents per query")
    margin: NonNegative | None = key(
        None, "maximum score of a negative: the score of the query's lowest positive minus this; empty: no maximum"
    )
    relative_margin: Share | None = key(None, "as margin, but as a share of the positive's score (its magnitude)")
    sampling: Literal["random", "top"] = key("random", "within the ranks: random, or the top ones")
    ignore_identical_ids: IgnoreIdentical = key("auto", IDENTICAL)
    seed: Seed = key(42, "seed of the draws")
    output: PathText | None = key(None, "output folder; the files are in its data/; empty: runs/mine-<hash of the configuration>")
    fresh: bool = key(False, "start over: delete this run's files in the output folder")
    skip_bad: bool = key(False, "skip bad lines; count and list them")
    rollout: RolloutSection = key(RolloutSection(), "workers of the reranker")
    ray: RaySection = key(RaySection(), "where the workers of the reranker run")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, needed in (("model", "dense"), ("run", "run")):
            given = getattr(self, name) is not None
            if given != (self.source == needed):
                if given:
                    raise ValueError(f"{name}: belongs to source={needed}, but source is {self.source}; remove it")
                raise ValueError(f"{name}: is missing, but source={needed} needs it; give {name}=")
        check_engines(self.ray, self.rollout)
        if self.chat_template_kwargs and self.reranker is None:
            raise ValueError("chat_template_kwargs: belongs to reranker=, which is not given; remove it")
        if not self.ranks:
            raise ValueError("ranks: is empty; give a range such as 10-100")
        for text, (first, last) in zip(self.ranks, self.epochs, strict=True):
            if last - first + 1 < self.hard:
                raise ValueError(f"ranks: {text} has fewer than {self.hard} documents; widen it, or lower negatives")
            if self.reranker is not None and last > self.depth:
                raise ValueError(f"ranks: {text} exceeds the {self.depth} documents that are scored; use depth={last}")
        return self

    @property
    def epochs(self) -> list[tuple[int, int]]:
        """The first and the last rank (from 1) of each epoch."""
        found = []
        for text in self.ranks:
            match = re.fullmatch(r"\s*(\d{1,9})\s*-\s*(\d{1,9})\s*", text)
            first, last = (int(match[1]), int(match[2])) if match else (0, 0)
            if not 1 <= first <= last:
                raise ValueError(f"ranks: {text!r} is not a range of ranks; write from-to, such as 1-20")
            found.append((first, last))
        return found

    @property
    def drawn(self) -> int:
        """Number of negatives per query from the whole corpus."""
        return round(self.negatives * self.random_share)

    @property
    def hard(self) -> int:
        """Number of negatives per query from the ranks."""
        return self.negatives - self.drawn

    @property
    def deepest(self) -> int:
        """The largest rank of all epochs."""
        return max(last for _, last in self.epochs)
