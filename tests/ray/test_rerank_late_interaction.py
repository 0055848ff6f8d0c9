"""Late interaction by the launcher: two workers share one vector cache, with sentence-transformers' scores in the run."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from r0.launch import main
from tests.launching import command, environment, launch, launch_here
from tests.tiny_encoder import tiny_multi_vector

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    """The built-in lists as a BEIR folder with the first stage's run."""
    folder = tmp_path_factory.mktemp("data") / "beir"
    launch_here("convert", {"input": "builtin", "output": folder, "rows": 9})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_multi_vector(tmp_path_factory.mktemp("late"))


def texts_of(path: Path) -> dict[str, str]:
    return {row["_id"]: row["text"] for row in map(json.loads, path.read_text().splitlines())}


def ranked(output: Path) -> dict[str, list[tuple[str, float]]]:
    found = defaultdict(list)
    for line in (output / "run.trec").read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        found[query].append((document, float(score)))
    return found


def kept(cache: Path) -> int:
    (path,) = cache.glob("*.sqlite")
    with closing(sqlite3.connect(path)) as file:
        return file.execute("SELECT count(*) FROM vectors").fetchone()[0]


def check(output: Path, beir: Path, model: str) -> None:
    from sentence_transformers import MultiVectorEncoder

    encoder = MultiVectorEncoder(model, device="cpu", local_files_only=True)
    texts, queries = (texts_of(beir / name) for name in ("corpus.jsonl", "queries.jsonl"))
    found = ranked(output)
    assert found.keys() == queries.keys()
    for query, pairs in found.items():
        documents, scores = zip(*pairs, strict=True)
        vectors = encoder.encode_document([texts[document] for document in documents])
        expected = encoder.similarity(encoder.encode_query([queries[query]]), vectors)[0].tolist()
        assert np.asarray(scores) == pytest.approx(expected, abs=1e-4)
        assert list(scores) == sorted(scores, reverse=True)


def settings(beir, model, output, **more):
    return {"data": beir, "run": beir / "given.trec", "model": model, "method": "late_interaction", "output": output, **more}


def test_the_run_has_the_librarys_scores_and_a_second_one_reads_the_vectors_that_are_kept(beir, model, tmp_path, capsys):
    cache = tmp_path / "vectors"
    inline = {"ray.inline": "true", "vector_cache": cache}
    launch_here("rerank", settings(beir, model, tmp_path / "one", **inline))
    check(tmp_path / "one", beir, model)
    assert kept(cache) == len(set(texts_of(beir / "corpus.jsonl").values()))
    launch_here("rerank", settings(beir, model, tmp_path / "two", **inline))
    assert (tmp_path / "two" / "run.trec").read_bytes() == (tmp_path / "one" / "run.trec").read_bytes()
    read = [json.loads((tmp_path / name / "summary.json").read_text())["prompt_tokens_a_query"] for name in ("one", "two")]
    assert read[1] < read[0] / 2  # queries only
    capsys.readouterr()
    assert main(command("rerank", settings(beir, model, tmp_path / "three") | {"method": "listwise"})[3:]) == 2
    refused = capsys.readouterr().err
    assert "use method=late_interaction" in refused
    assert refused.count("\n") == 1
    assert not (tmp_path / "three").exists()


@pytest.mark.slow
def test_two_workers_share_one_file_of_vectors_and_an_interrupted_run_goes_on(beir, model, tmp_path):
    cache = tmp_path / "vectors"
    two = {"rollout.workers": 2, "rollout.max_num_seqs": 1, "vector_cache": cache}
    run = subprocess.Popen(
        command("rerank", settings(beir, model, tmp_path / "out", **two)), env=environment(), stdout=subprocess.PIPE, text=True
    )
    lines, end = tmp_path / "out" / "queries.jsonl", time.monotonic() + 300
    while run.poll() is None and time.monotonic() < end and not (lines.exists() and lines.stat().st_size):
        time.sleep(0.01)
    if run.poll() is None:
        os.kill(run.pid, signal.SIGTERM)
    run.communicate(timeout=300)
    assert run.returncode in (0, 143)  # it may have been done before the signal came
    launch("rerank", settings(beir, model, tmp_path / "out", **two))
    check(tmp_path / "out", beir, model)
    assert kept(cache) == len(set(texts_of(beir / "corpus.jsonl").values()))
    launch("rerank", settings(beir, model, tmp_path / "fused", depth=2, fusion_weight=1.0, **two))
    given = defaultdict(list)
    for line in (beir / "given.trec").read_text().splitlines():
        given[line.split()[0]].append(line.split()[2])
    for query, pairs in ranked(tmp_path / "fused").items():
        assert [document for document, _ in pairs] == given[query]
