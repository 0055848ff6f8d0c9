"""The configurations of what uses rankings without training: a first stage, reranking, evaluation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from r0.config.commands import DEFAULT_MODEL, OutputKeys
from r0.config.models import ModelKeys
from r0.config.sections import Count, NonNegative, RaySection, RolloutSection, Section, Share, check_engines, key
from r0.records import Form

Names = tuple[str, ...]


class RetrieveConfig(Section):
    """A first stage: BM25 over a BEIR corpus, written as a TREC run."""

    data: str = key(..., "BEIR folder: corpus.jsonl and queries.jsonl")
    output: str = key(..., "TREC run to write")
    candidates: str | None = key(None, "TREC run: rank only the documents it has for each query")
    qrels: str | None = key(None, "only the queries judged here: a split of the folder, or a file; empty: all queries")
    depth: Count = key(100, "documents written for each query, at most")
    k1: NonNegative = key(1.5, "BM25's term saturation")
    b: Share = key(0.75, "BM25's length normalisation")
    stemmer: Literal["english", "none"] = key("none", "Snowball stemmer; helps many collections, harms questions about names")
    stopwords: Literal["english", "none"] = key("english", "words left out")
    tag: str = key("bm25", "name of the run in its last column")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")


class ScoringKeys(ModelKeys):
    """How a model judges documents one by one."""

    model: str = key(DEFAULT_MODEL, "model: a folder, or a name on the Hugging Face Hub")
    thinking: bool | None = key(
        None, "pointwise: the probability of yes after a thought, or with thinking switched off; empty: a sentence-transformers "
        "CrossEncoder scores as it was trained to, others think"
    )  # fmt: skip
    query_format: str | None = key(
        None, "pointwise: text around the query, as `query: {}`. Where any of the four is given, a language model's score is yes "
        "against no behind them; those that are empty are `query: {}`, `document: {}`, a space and nothing"
    )  # fmt: skip
    document_format: str | None = key(None, "pointwise: text around the document, as `document: {}`")
    seq: str | None = key(None, "pointwise: text between query and document")
    special_token: str | None = key(None, "pointwise: text behind the document, where the score is read")
    temperature: NonNegative = key(0.0, "sampling temperature; 0 takes the likeliest token")
    seed: Annotated[int, Field(ge=0)] = key(42, "of shuffles and sampling")
    system_prompt: str = key("", "system message; empty: what the model was trained with, or r0's own for the answer form")
    max_prompt_tokens: Count | None = key(
        None, "prompt budget; empty: 8192, or less where the model has fewer positions; of a cross-encoder, all its positions"
    )  # fmt: skip
    max_new_tokens: Count = key(1024, "token limit of a completion")
    rollout: RolloutSection = key(RolloutSection(), "sampling workers")
    ray: RaySection = key(RaySection(), "where they run")

    @model_validator(mode="after")
    def _check_inline(self) -> Self:
        check_engines(self.ray, self.rollout)
        return self


class RankingKeys(ScoringKeys):
    """How a model orders candidates: what the rerank command and ``r0.rerank.Reranker`` have in common."""

    method: Literal["pointwise", "listwise", "setwise", "groupwise", "late_interaction"] = key(
        "listwise", "how a list is ordered; late_interaction: MaxSim over the token vectors of a multi-vector encoder (ColBERT)"
    )  # fmt: skip
    depth: Count = key(100, "candidates of a query that are reranked; the others follow in the given order")
    window: Annotated[int, Field(ge=2)] = key(20, "listwise: documents of a window")
    step: Count | None = key(None, "listwise: by how many documents a window moves towards the head; empty: half of window")
    passes: Count = key(1, "listwise: times that the windows run over the list")
    top_k: Count = key(10, "setwise: documents of the head that are sorted")
    set_size: Annotated[int, Field(ge=2)] = key(4, "setwise: documents compared at one time (a parent and its children)")
    group_size: Annotated[int, Field(ge=2)] = key(20, "groupwise: documents of a group")
    partitions: Count = key(1, "groupwise: random partitions whose scores are averaged")
    vector_cache: str | None = key(
        "auto", "late_interaction: folder where the vectors of documents are kept, by model and text; auto: r0/vectors in "
        "$XDG_CACHE_HOME or ~/.cache; none: they are not kept"
    )  # fmt: skip
    samples: Count = key(1, "permutation self-consistency: shuffled samples of each list, combined to one order (1: none)")
    fusion_weight: Share = key(0.0, "share of the first stage's score in the final one, both scaled to 0…1 within the query")
    passage_tokens: Count = key(256, "every document of a list is cut to so many tokens, and further where the list does not fit")
    max_prompt_tokens: Count | None = key(
        None, "prompt budget; empty: 8192, or less where the model has fewer positions; of a cross-encoder, all its positions; "
        "late_interaction: tokens of a document, empty: as the model was saved"
    )  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.step is not None and self.step >= self.window:
            raise ValueError(f"step: {self.step} is not below window={self.window}, so that windows would not overlap")
        if self.samples > 1 and self.method in ("pointwise", "late_interaction"):
            raise ValueError(f"samples: {self.method} sees one document at a time, so there is no list to shuffle; use samples=1")
        return self

    @property
    def form(self) -> Form:
        """What the model answers."""
        forms = {"listwise": Form.PERMUTATION, "setwise": Form.PICK, "groupwise": Form.SCORES}
        return forms.get(self.method, Form.YES_NO)


class RerankConfig(OutputKeys, RankingKeys):
    """Order the candidates of a first stage with a trained model, written as a TREC run."""

    data: str = key(..., "BEIR folder (with run=), or a JSONL file of rank_llm requests")
    run: str | None = key(None, "TREC run with the candidates of each query (BEIR folders)")
    tag: str = key("r0", "name of the run in its last column")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")


class EvaluateConfig(Section):
    """Measure runs against judgements, the first stage always beside them."""

    qrels: Names = key(
        ..., "judgements: BEIR's tsv, TREC's qrels, or BRIGHT's queries; `{}` stands for the data set", strict=False
    )
    runs: Names = key(..., "TREC runs; `{}` stands for the data set", strict=False)
    first_stage: str | None = key(None, "TREC run of the first stage, shown as the first row; empty: the first of runs")
    datasets: Names = key((), "names that take the place of `{}`; the table has the mean over them", strict=False)
    excluded: Names = key((), "BRIGHT's query files with excluded_ids, which are dropped from every run", strict=False)
    format: Literal["text", "markdown", "csv", "json"] = key("text", "how the table is printed")
    output: str | None = key(None, "write the table to this file too")
    per_query: str | None = key(None, "write every query's measures to this file (JSONL)")
    test: Literal["t", "permutation"] = key("t", "paired two-sided significance test against the first stage")
    alpha: Annotated[float, Field(gt=0, lt=1)] = key(0.05, "significance level at which a difference is marked")
    exponential_gain: bool = key(False, "also nDCG with gains 2^grade − 1, in columns of their own name")
    skip_bad: bool = key(False, "leave bad lines out, count and list them, and go on")
