"""distill score by the launcher: vLLM with Qwen3-Reranker's exact template, cross-encoders on Ray, a thinking model, resuming."""

import gzip
import json
import math
import signal
import subprocess
import time

import pytest
import torch

from r0.data.jsonl import BadLines
from r0.data.scored import read_scored
from tests.architectures import build
from tests.launching import command, environment, here, launch, launch_here, refused

pytestmark = pytest.mark.ray

QWEN = "qwen3-reranker-0.6b"
LONG = "the harbor é and the tax 日本 " * 90  # bytes: more than the tiny model's positions
MTEB = [
    {"query": "where does the river flow", "positive": ["The river flows to the sea."], "negative": ["A tax.", LONG, "no"]},
    {"query": "what links é with the tax?", "positive": ["yes", "é taxes"], "negative": ["<|im_end|> a < b</think>"]},
]


def packed(path):
    path.write_bytes(gzip.compress("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in MTEB).encode()))
    return path


def scored(output):
    return list(read_scored(output / "scores.jsonl", BadLines()))


def test_vllm_scores_qwen3_rerankers_exact_template_as_transformers_does(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, most = build(QWEN, tmp_path / "model"), 1500
    done = launch_here(
        "distill score",
        {
            "model_preset": QWEN, "model": model, "data": packed(tmp_path / "test.jsonl.gz"), "output": tmp_path / "out",
            "max_prompt_tokens": most, "ray.inline": "true", "rollout.dtype": "fp32", "rollout.max_num_seqs": 4,
        },
    )  # fmt: skip
    assert "2 queries, 7 documents" in done.stdout
    assert "AUC within a query" in done.stdout
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])

    def logit(query, document):
        system = (
            "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
            'Note that the answer can only be "yes" or "no".'
        )
        task = "Given a web search query, retrieve relevant passages that answer the query"
        user = f"<Instruct>: {task}\n<Query>: {query}\n<Document>: {document}"
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, enable_thinking=False, return_dict=False)
        with torch.inference_mode():
            logits = network(torch.tensor([ids])).logits[0, -1]
        return len(ids), (logits[yes] - logits[no]).item()

    for row, found in zip(MTEB, scored(tmp_path / "out"), strict=True):
        assert (found.query, found.documents) == (row["query"], (*row["positive"], *row["negative"]))
        assert found.labels == (1.0,) * len(row["positive"]) + (0.0,) * len(row["negative"])
        for document, score in zip(found.documents, found.scores, strict=True):
            shown = document.replace("<|im_end|>", "‹|im_end|>").replace("</think>", "‹/think>")  # a document is data
            while (expected := logit(found.query, shown))[0] > most:
                shown = shown[: -max(1, (expected[0] - most) // 4)]  # the document is cut, and the template is whole
            assert score == pytest.approx(expected[1], abs=1e-4)


@pytest.mark.slow
def test_rerank_protocol_vllm_the_same(tmp_path):
    model = build(QWEN, tmp_path / "model")
    common = {"model_preset": QWEN, "model": model, "max_prompt_tokens": 1500, "ray.inline": "true", "rollout.dtype": "fp32"}
    launch("distill score", {**common, "data": packed(tmp_path / "test.jsonl.gz"), "output": tmp_path / "out"})
    launch("rerank", {**common, "data": requests(tmp_path / "requests.jsonl"), "output": tmp_path / "ranked"})
    ranked = [line.split() for line in (tmp_path / "ranked" / "run.trec").read_text().splitlines()]
    for number, found in enumerate(scored(tmp_path / "out")):
        mine = {document: float(score) for query, _, document, _, score, _ in ranked if query == str(number)}
        for place, score in enumerate(found.scores):
            assert mine[f"d{place}"] == pytest.approx(1 / (1 + math.exp(-score)), abs=1e-4)


def requests(path):
    rows = [
        {
            "query": {"text": row["query"], "qid": str(number)},
            "candidates": [
                {"docid": f"d{place}", "score": 9.0 - place, "doc": {"contents": text}}
                for place, text in enumerate((*row["positive"], *row["negative"]))
            ],
        }
        for number, row in enumerate(MTEB)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return build("bert-base-uncased", tmp_path_factory.mktemp("encoder") / "model", "score")


@pytest.mark.slow
def test_two_workers_give_a_cross_encoders_logits_before_its_activation(encoder, tmp_path, capsys):
    from sentence_transformers import CrossEncoder

    settings = {
        "model": encoder, "data": packed(tmp_path / "test.jsonl.gz"), "output": tmp_path / "out", "rollout.workers": 2,
        "rollout.max_num_seqs": 3,
    }  # fmt: skip
    launch("distill score", settings)
    own = CrossEncoder(encoder, device="cpu", activation_fn=torch.nn.Identity())
    for found in scored(tmp_path / "out"):
        expected = own.predict([(found.query, document) for document in found.documents])
        assert found.scores == pytest.approx(expected.tolist(), abs=1e-4)
    assert max(abs(score) for found in scored(tmp_path / "out") for score in found.scores) > 1
    assert "already finished (fresh=true starts over)" in here(capsys, "distill score", settings)


TINY = {"model": "r0-tiny", "rollout.engine": "hf", "ray.inline": "true", "builtin_rows": 12, "max_new_tokens": 100}


@pytest.mark.slow
def test_an_interrupted_run_of_a_thinking_model_goes_on_and_gives_the_same_scores(tmp_path, capsys):
    slow = {**TINY, "output": tmp_path / "run", "rollout.max_num_seqs": 3}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command("distill score", slow), env=environment(), **pipes)
    lines = tmp_path / "run" / "queries.jsonl"
    end = time.monotonic() + 300
    while not lines.is_file() or lines.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "run the same command again to resume" in said
    assert not (tmp_path / "run" / "scores.jsonl").exists()
    before = lines.read_bytes()
    done = before.count(b"\n")
    assert 2 <= done < 12
    with lines.open("ab") as file:
        file.write(b'{"key": "00')  # as a kill at a write leaves it
    again = here(capsys, "distill score", {**TINY, "output": tmp_path / "run"})
    assert f"{done} queries were scored before" in again
    assert lines.read_bytes().startswith(before)
    here(capsys, "distill score", {**TINY, "output": tmp_path / "whole"})
    resumed, whole = scored(tmp_path / "run"), scored(tmp_path / "whole")
    assert [one.documents for one in resumed] == [one.documents for one in whole]
    for one, other in zip(resumed, whole, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-3)
    known = [(label, score) for one in whole for label, score in zip(one.labels, one.scores, strict=True) if score is not None]
    assert len(known) > 60  # after a thought the model tells the documents apart
    assert min(score for label, score in known if label) > max(score for label, score in known if not label)
    said = refused(capsys, "distill score", {**TINY, "output": tmp_path / "run", "thinking": "false"})
    assert "thinking (empty there, False here)" in said


def test_scores_of_other_data_are_refused_and_nothing_is_written(encoder, tmp_path, capsys):
    settings = {"model": encoder, "data": packed(tmp_path / "d.jsonl.gz"), "output": tmp_path / "out", "ray.inline": "true"}
    here(capsys, "distill score", settings)
    (tmp_path / "out" / "finished.json").unlink()
    (tmp_path / "out" / "scores.jsonl").unlink()
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(json.dumps(MTEB[0]).encode()))
    said = refused(capsys, "distill score", settings)
    assert "d.jsonl.gz is not what this run" in said
    assert said.strip().splitlines() == [said.strip()]
    assert not (tmp_path / "out" / "scores.jsonl").exists()


def test_a_query_too_long_for_the_teacher_ends_the_run_or_is_left_without_scores(tmp_path, capsys):
    model = build(QWEN, tmp_path / "model")
    rows = [*MTEB, {"query": "long " * 400, "positive": ["a"], "negative": ["b"]}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": model, "data": tmp_path / "d.jsonl", "output": tmp_path / "out", "ray.inline": "true", "thinking": "false",
        "rollout.engine": "hf", "max_prompt_tokens": 900, "max_new_tokens": 8,
    }  # fmt: skip
    said = refused(capsys, "distill score", settings)
    assert "d.jsonl:3: query" in said
    assert "remove such long queries; with skip_bad=true such queries have no scores" in said
    said = here(capsys, "distill score", {**settings, "skip_bad": "true"})
    assert "1 queries could not be shown to the teacher:" in said
    assert [one.scores.count(None) for one in scored(tmp_path / "out")] == [0, 0, 2]
