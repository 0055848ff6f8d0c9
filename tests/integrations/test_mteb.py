"""MTEB's own evaluation of a reranker gives the figures of ``rerank`` and ``eval``: ``make test-integrations``."""

import json
from pathlib import Path

import pytest

from r0 import rerank
from r0.launch import main

mteb = pytest.importorskip("mteb", reason="make test-integrations has an environment with the packages")
datasets = pytest.importorskip("datasets", reason="the environment has r0's own packages too")

MEASURES = {"nDCG@10": "ndcg_at_10", "nDCG@1": "ndcg_at_1", "RR@10": "mrr_at_10", "R@3": "recall_at_3"}

UNKNOWN = ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect", "sample_creation")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def columns(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A BEIR folder: documents with and without a title, and two queries of the same words."""
    folder = tmp_path_factory.mktemp("data") / "lists"
    assert main(["convert", "builtin", str(folder), "rows=8", "candidates=6", "seed=3"]) == 0
    corpus, queries = rows(folder / "corpus.jsonl"), rows(folder / "queries.jsonl")
    for number, document in enumerate(corpus):
        document["title"] = "" if number % 3 else "The canal replaces the vinegar in Spain"
    queries[1]["text"] = queries[0]["text"]
    for name, content in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return folder


@pytest.fixture(scope="module")
def task(folder):
    """The folder as a reranking task of MTEB, which is on no Hub."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="R0Local", type="Reranking", main_score="ndcg_at_10", description="Lists of r0.", category="t2t",
            dataset={"path": "NA", "revision": "1"}, eval_splits=["test"], eval_langs=["eng-Latn"], modalities=["text"],
            **dict.fromkeys(UNKNOWN), bibtex_citation="",
        )  # fmt: skip

        def load_data(self, num_proc=None, **kwargs):
            corpus = [{"id": one["_id"], "title": one["title"], "text": one["text"]} for one in rows(folder / "corpus.jsonl")]
            queries = [{"id": one["_id"], "text": one["text"]} for one in rows(folder / "queries.jsonl")]
            grades, ranked = {}, {}
            for query, document, grade in columns(folder / "qrels" / "test.tsv")[1:]:
                grades.setdefault(query, {})[document] = int(grade)
            for query, _, document, *_ in columns(folder / "given.trec"):
                ranked.setdefault(query, []).append(document)
            split = RetrievalSplitData(
                corpus=datasets.Dataset.from_list(corpus),
                queries=datasets.Dataset.from_list(queries),
                relevant_docs=grades,
                top_ranked=ranked,
            )
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Local()


@pytest.mark.parametrize("settings", [{"method": "listwise", "max_new_tokens": 180}, {"method": "pointwise", "thinking": False}])
def test_mtebs_figures_are_those_of_eval(folder, task, settings, tmp_path, capsys):
    with rerank.Reranker("r0-tiny", engine="hf", device="cpu", **settings) as reranker:
        assert isinstance(reranker, mteb.CrossEncoderProtocol)
        result = mteb.evaluate(reranker, task, cache=None, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]

    words = [f"{name}={str(value).lower()}" for name, value in settings.items()]
    run = ["rerank", f"data={folder}", f"run={folder / 'given.trec'}", "model=r0-tiny", f"output={tmp_path / 'run'}"]
    assert main([*run, *words, "rollout.engine=hf", "ray.inline=true"]) == 0
    capsys.readouterr()
    line = ["eval", f"qrels={folder / 'qrels' / 'test.tsv'}", f"runs={tmp_path / 'run' / 'run.trec'}", "format=json"]
    assert main([*line, f"first_stage={folder / 'given.trec'}", f"measures={','.join(MEASURES)}"]) == 0
    first, mine = json.loads(capsys.readouterr().out)["datasets"][0]["runs"]
    assert {name: scores[theirs] for name, theirs in MEASURES.items()} == pytest.approx(mine["measures"], abs=1e-5)
    assert scores["ndcg_at_10"] != pytest.approx(first["measures"]["nDCG@10"], abs=1e-3)  # the order is no longer the given one


def test_results_are_kept_by_weights_and_settings():
    def meta(**settings):
        with rerank.Reranker("r0-tiny", engine="hf", device="cpu", **settings) as reranker:
            return reranker.mteb_model_meta

    one = meta(method="pointwise")
    assert (one.name, one.model_type) == ("r0/r0-tiny", ["cross-encoder"])
    assert one.revision == meta(method="pointwise", max_num_seqs=3).revision
    assert len({one.revision, meta(method="listwise").revision, meta(method="pointwise", thinking=False).revision}) == 3
