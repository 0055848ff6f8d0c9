"""Reranking with cross-encoders by the launcher: workers on Ray without vLLM, with sentence-transformers' scores in the run."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from r0.launch import main
from tests.architectures import build
from tests.launching import here, launch_here, refused

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The built-in lists as a BEIR folder with the first stage's run."""
    folder = tmp_path_factory.mktemp("data") / "beir"
    assert main(["convert", "builtin", str(folder), "rows=9"]) == 0
    return folder


def texts_of(path: Path) -> dict[str, str]:
    return {row["_id"]: row["text"] for row in map(json.loads, path.read_text().splitlines())}


def test_two_workers_write_the_scores_of_sentence_transformers(ray_session, data, tmp_path, capsys):
    from sentence_transformers import CrossEncoder

    model = build("bge-reranker-v2-m3", tmp_path / "model")
    settings = {"model": model, "data": data, "run": data / "given.trec", "method": "pointwise", "output": tmp_path / "out"}
    done = launch_here("rerank", {**settings, "rollout.workers": 2, "rollout.max_num_seqs": 4})
    assert "9 queries" in done.stdout
    texts, queries = (texts_of(data / name) for name in ("corpus.jsonl", "queries.jsonl"))
    ranked = defaultdict(list)
    for line in (tmp_path / "out" / "run.trec").read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        ranked[query].append((document, float(score)))
    assert ranked.keys() == queries.keys()
    encoder = CrossEncoder(model, device="cpu")
    for query, found in ranked.items():
        documents, scores = zip(*found, strict=True)
        expected = encoder.predict([(queries[query], texts[document]) for document in documents])
        assert np.asarray(scores) == pytest.approx(expected, abs=1e-4)
        assert list(scores) == sorted(scores, reverse=True)
    assert "finished before" in here(capsys, "rerank", {**settings, "rollout.workers": 2, "rollout.max_num_seqs": 4})


def test_a_method_that_a_cross_encoder_cannot_do_is_refused_before_anything_is_written(data, tmp_path, capsys):
    model = build("bge-reranker-v2-m3", tmp_path / "model")
    settings = {"model": model, "data": data, "run": data / "given.trec", "output": tmp_path / "out"}
    said = refused(capsys, "rerank", settings).strip()
    assert said.splitlines() == [said]
    assert "use method=pointwise" in said
    assert not (tmp_path / "out").exists()
