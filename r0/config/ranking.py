"""Configurations of commands that rank without training: a first stage, reranking, evaluation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from r0.config.commands import DEFAULT_MODEL, OutputKeys
from r0.config.models import ModelKeys
from r0.config.sections import Count, NonNegative, RaySection, RolloutSection, Section, Share, check_engines, key
from r0.config.types import CountFrom2, DataText, ModelText, PathText, Seed
from r0.records import Form

Names = tuple[str, ...]
Paths = tuple[PathText, ...]
IgnoreIdentical = bool | Literal["auto"]
IDENTICAL = (
    "drop the document that has the id of the query itself (ArguAna); auto: where every query id is the id of a document, unless "
    "all ids are numbers, which may agree by chance, or the document is judged relevant"
)


class RetrieveConfig(Section):
    """Rank a BEIR corpus with BM25, as a first stage, and write a TREC run."""

    data: DataText = key(..., "BEIR folder (corpus.jsonl and queries.jsonl), or the name of a data set, such as hf:BeIR/scifact")
    output: PathText = key(..., "file for the TREC run")
    candidates: PathText | None = key(None, "TREC run; rank only its documents for each query")
    qrels: DataText | None = key(None, "rank only the queries judged here: a split of the folder, or a file; empty: all queries")
    excluded: Paths = key((), "BRIGHT's query files with excluded_ids, which are not ranked for their query", strict=False)
    depth: Count = key(100, "maximum documents per query")
    k1: NonNegative = key(1.5, "BM25 term saturation k1")
    b: Share = key(0.75, "BM25 length normalization b")
    stemmer: Literal["english", "none"] = key("none", "Snowball stemmer; helps many collections, hurts queries about names")
    stopwords: Literal["english", "none"] = key("english", "stop words to ignore")
    ignore_identical_ids: IgnoreIdentical = key("auto", IDENTICAL)
    tag: str = key("bm25", "name of the run, for its last column")
    skip_bad: bool = key(False, "skip bad lines; count and list them")


class FuseConfig(Section):
    """Fuse several TREC runs into one by the ranks of their documents (reciprocal rank fusion)."""

    runs: Paths = key(..., "TREC runs, at least two", strict=False)
    output: PathText = key(..., "file for the TREC run")
    k: NonNegative = key(
        60.0, "a document's score is the sum of 1 / (k + rank) over the runs"
    )
    depth: Count = key(1000, "maximum documents per query")
    tag: str = key("rrf", "name of the run, for its last column")
    skip_bad: bool = key(False, "skip bad lines; count and list them")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.runs) < 2:
            raise ValueError("runs: give at least two runs, separated by commas")
        return self


class ScoringKeys(ModelKeys):
    """How a model scores documents one by one."""

    model: ModelText = key(DEFAULT_MODEL, "model: a folder, or a name on the Hugging Face Hub")
    thinking: bool | None = key(
        None, "pointwise: P(yes) after a thought, or with thinking switched off; empty: a sentence-transformers CrossEncoder "
        "scores as it was trained, other models think"
    )  # fmt: skip
    query_format: str | None = key(
        None, "pointwise: text around the query, such as `query: {}`. If any of the four formats is given, a language model is "
        "scored by yes against no after them; the others default to `query: {}`, `document: {}`, a space and nothing"
    )  # fmt: skip
    document_format: str | None = key(None, "pointwise: text around the document, such as `document: {}`")
    seq: str | None = key(None, "pointwise: text between query and document")
    special_token: str | None = key(None, "pointwise: text after the document, at which the score is read")
    temperature: NonNegative = key(0.0, "sampling temperature; 0: greedy")
    seed: Seed = key(42, "seed of shuffles and sampling")
    system_prompt: str = key("", "system message; empty: the one the model was trained with, or r0's default for the answer form")
    max_prompt_tokens: Count | None = key(
        None, "maximum prompt length in tokens; empty: 8192, or less if the model has fewer positions; cross-encoder: all"
    )  # fmt: skip
    max_new_tokens: Count = key(1024, "maximum completion length in tokens")
    rollout: RolloutSection = key(RolloutSection(), "sampling workers")
    ray: RaySection = key(RaySection(), "where the workers run")

    @model_validator(mode="after")
    def _check_inline(self) -> Self:
        check_engines(self.ray, self.rollout)
        formats = [
            name for name in ("query_format", "document_format", "seq", "special_token") if getattr(self, name) is not None
        ]
        if self.chat_template_kwargs and formats:
            raise ValueError(f"chat_template_kwargs: {formats[0]} takes the place of the chat template; remove one of the two")
        return self


class RankingKeys(ScoringKeys):
    """How a model orders candidates: the keys shared by the rerank command and ``r0.rerank.Reranker``."""

    method: Literal["pointwise", "listwise", "setwise", "groupwise", "late_interaction"] = key(
        "listwise", "reranking method; late_interaction: MaxSim over the token vectors of a multi-vector encoder (ColBERT)"
    )  # fmt: skip
    depth: Count = key(100, "candidates per query to rerank; the others follow in their original order")
    window: CountFrom2 = key(20, "listwise: documents per window")
    step: Count | None = key(None, "listwise: documents by which the window moves towards the top; empty: half of window")
    passes: Count = key(1, "listwise: passes of the window over the list")
    top_k: Count = key(10, "setwise: number of top documents to sort")
    set_size: CountFrom2 = key(4, "setwise: documents per comparison (a node of the heap and its children)")
    group_size: CountFrom2 = key(20, "groupwise: documents per group")
    partitions: Count = key(1, "groupwise: random partitions whose scores are averaged")
    vector_cache: PathText | None = key(
        "auto", "late_interaction: folder for cached document vectors, by model and text; auto: r0/vectors in "
        "$XDG_CACHE_HOME or ~/.cache; none: no cache"
    )  # fmt: skip
    samples: Count = key(1, "permutation self-consistency: shuffled samples per list, aggregated to one order (1: off)")
    fusion_weight: Share = key(0.0, "weight of the first stage's score in the final score, both scaled to 0…1 per query")
    passage_tokens: Count = key(
        256, "tokens per document of a list; documents are cut to this, or shorter if the list does not fit"
    )
    max_prompt_tokens: Count | None = key(
        None, "maximum prompt length in tokens; empty: 8192, or less if the model has fewer positions; cross-encoder: all; "
        "late_interaction: maximum document length, empty: as saved with the model"
    )  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.step is not None and self.step >= self.window:
            raise ValueError(f"step: {self.step} is not below window={self.window}, so windows would not overlap; lower it")
        if self.chat_template_kwargs and self.method == "late_interaction":
            raise ValueError("chat_template_kwargs: late_interaction uses no chat template; remove it")
        if self.samples > 1 and self.method in ("pointwise", "late_interaction"):
            raise ValueError(f"samples: {self.method} scores documents one by one, so there is nothing to shuffle; use samples=1")
        return self

    @property
    def form(self) -> Form:
        """The answer form."""
        forms = {"listwise": Form.PERMUTATION, "setwise": Form.PICK, "groupwise": Form.SCORES}
        return forms.get(self.method, Form.YES_NO)


class RerankConfig(OutputKeys, RankingKeys):
    """Rerank the candidates of a first stage with a trained model, and write a TREC run."""

    data: DataText = key(
        ..., "BEIR folder (with run=), a JSONL file of rank_llm requests, or the name of a data set, such as hf:BeIR/scifact"
    )
    run: DataText | None = key(None, "TREC run with the candidates of each query (BEIR folders)")
    ignore_identical_ids: IgnoreIdentical = key("auto", IDENTICAL)
    tag: str = key("r0", "name of the run, for its last column")
    skip_bad: bool = key(False, "skip bad lines; count and list them")


class EvaluateConfig(Section):
    """Measure runs against judgements, always compared with the first stage."""

    qrels: tuple[DataText, ...] = key(
        ..., "judgements: BEIR's TSV, TREC's qrels, BRIGHT's queries, or the name of a data set, such as hf:BeIR/scifact/test; "
        "`{}` is replaced by the data set", strict=False
    )  # fmt: skip
    runs: Paths = key(..., "TREC runs; `{}` is replaced by the data set", strict=False)
    first_stage: PathText | None = key(None, "TREC run of the first stage, shown as the first row; empty: the first of runs")
    datasets: Names = key((), "names of data sets, inserted for `{}`; the table includes the mean over them", strict=False)
    excluded: Paths = key((), "BRIGHT's query files with excluded_ids, which are dropped from each run", strict=False)
    format: Literal["text", "markdown", "csv", "json"] = key("text", "format of the printed table")
    output: PathText | None = key(None, "also write the table to this file")
    per_query: PathText | None = key(None, "write the measures of each query to this file (JSONL)")
    test: Literal["t", "permutation"] = key("t", "paired two-sided significance test against the first stage")
    alpha: Annotated[float, Field(gt=0, lt=1)] = key(0.05, "significance level for marking differences")
    measures: Names = key(
        (), "measures by their names in ir_measures, such as nDCG@20,P@5,R@1000,AP,RR@10,AP(rel=2); runs are compared by the "
        "first; empty: nDCG@1, 5, 10, MAP, MRR@10, Recall@10, 100, Hit@1, 5, 10 and judged@10, compared by nDCG@10", strict=False
    )  # fmt: skip
    relevance_level: Count = key(1, "lowest grade of a relevant document, for all measures but nDCG; TREC Deep Learning's is 2")
    ignore_identical_ids: IgnoreIdentical = key("auto", IDENTICAL)
    exponential_gain: bool = key(False, "add columns of nDCG with gains 2^grade − 1")
    skip_bad: bool = key(False, "skip bad lines; count and list them")
