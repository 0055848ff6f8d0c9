"""Reranking on real engines: with the launcher on Ray and vLLM, interrupted, with a killed worker; and as a library."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from r0.actors.calls import RoleDied, RoleTimeout
from r0.actors.pool import Pool
from r0.config import RankingKeys, RaySection, RolloutSection
from r0.data.builtin.pairs import builtin_task
from r0.errors import UserError
from r0.rerank import Reranker
from r0.rerank.group import RerankGroup
from r0.rerank.job import Job, Outcome
from r0.rerank.protocol import Ranking
from tests.helpers import tiny_model
from tests.launching import here, launch_here, refused
from tests.logprob_gap import load

pytestmark = pytest.mark.ray

QUERIES, CANDIDATES = 12, 9
SMALL = {
    "method": "listwise", "window": 4, "step": 2, "max_new_tokens": 24, "max_prompt_tokens": 900, "depth": 8, "temperature": 0.8,
    "rollout.max_num_seqs": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), hidden=128)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A BEIR folder with a run; ids with a slash and an apostrophe."""
    folder = tmp_path_factory.mktemp("data")
    dice = random.Random(1)
    corpus = {f"d/{n}'s": "".join(dice.choices("abcdefgh ", k=30)) for n in range(40)}
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": i, "text": text}) + "\n" for i, text in corpus.items()))
    queries = [f"q{n}" for n in range(QUERIES)]
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": q, "text": f"query {q}"}) + "\n" for q in queries))
    with (folder / "given.trec").open("w") as run:
        for query in reversed(queries):
            count = 1 if query == "q3" else CANDIDATES
            for rank, document in enumerate(dice.sample(sorted(corpus), count)):
                run.write(f"{query} Q0 {document} {rank + 1} {20 - rank} bm25\n")
    return folder


def keys(settings, model, data, output):
    return {"model": model, "data": data, "run": data / "given.trec", "output": output, **settings}


def command(settings, model, data, output):
    values = keys(settings, model, data, output)
    return [sys.executable, "-m", "r0.launch", "rerank", *(f"{name}={value}" for name, value in values.items())]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def ranked(path):
    """Query id → document ids in the order of the file."""
    found = {}
    for line in path.read_text().splitlines():
        query, _, document, *_ = line.split()
        found.setdefault(query, []).append(document)
    return found


@pytest.fixture(scope="module")
def whole(ray_session, model, data, tmp_path_factory):
    """A run of two workers on Ray that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    done = launch_here("rerank", keys({**SMALL, "rollout.workers": 2}, model, data, output))
    return output, done


def test_a_run_comes_out_whole_with_what_it_took(whole, data):
    output, done = whole
    given, new = ranked(data / "given.trec"), ranked(output / "run.trec")
    assert list(new) == list(given)
    for query in given:
        assert sorted(new[query]) == sorted(given[query])
        assert new[query][8:] == given[query][8:]  # beyond the depth
    assert done.stdout.splitlines()[-2:] == [str(output / "run.trec"), f"to look at it: r0 report {output}"]
    assert "answers that could not be read as they should: " in done.stdout
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["queries"], summary["candidates"]) == (QUERIES, (QUERIES - 1) * CANDIDATES + 1)
    assert summary["asks"] == (QUERIES - 1) * 3
    assert summary["failed_share"] == 1.0  # a random model: all stays as it was given
    assert new == given


def thoughts(output):
    rows = [json.loads(line) for line in (output / "queries.jsonl").read_text().splitlines()]
    return {row["query_id"]: [row["replies"], row["documents"], row["new_tokens"]] for row in rows}


def test_an_interrupted_run_goes_on_without_repeating_finished_queries(whole, model, data, tmp_path, capsys):
    output = tmp_path / "run"
    slow = {**SMALL, "ray.inline": "true", "rollout.max_num_seqs": 1}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command(slow, model, data, output), env=environment(), **pipes)
    end = time.monotonic() + 300
    while not (output / "queries.jsonl").is_file() or len((output / "queries.jsonl").read_bytes().splitlines()) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "run the same command again to resume" in said
    assert not (output / "run.trec").exists()
    before = (output / "queries.jsonl").read_bytes()
    done = before.count(b"\n")
    assert 3 <= done < QUERIES
    with (output / "queries.jsonl").open("ab") as file:
        file.write(b'{"query_id": "q1", "docu')  # as a kill at a write leaves it
    again = here(capsys, "rerank", keys({**SMALL, "ray.inline": "true"}, model, data, output))
    assert f"{done} queries were finished before" in again
    after = (output / "queries.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == QUERIES
    assert (output / "run.trec").read_bytes() == (whole[0] / "run.trec").read_bytes()
    assert thoughts(output) == thoughts(whole[0])  # two workers on Ray, or one engine here: the same
    assert "finished before" in here(capsys, "rerank", keys({**SMALL, "ray.inline": "true"}, model, data, output))


def test_a_folder_of_another_configuration_is_refused(whole, model, data, capsys):
    said = refused(capsys, "rerank", keys({**SMALL, "window": 6}, model, data, whole[0]))
    assert "window (4 there, 6 here)" in said
    assert "fresh=true" in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"run": "/nowhere.trec"}, "/nowhere.trec"),
        ({"data": "/nowhere"}, "/nowhere: no such file or folder"),
        ({"model": "/nowhere/model"}, "there is no folder /nowhere/model"),
        ({"max_new_tokens": 2040}, "leaves no room for a prompt in the 2048 positions"),
        ({"max_prompt_tokens": 2000, "max_new_tokens": 100}, "lower max_prompt_tokens to at most 1916"),
        ({"step": 4}, "step: 4 is not below window=4"),
        ({"rollout.workers": 2, "ray.inline": "true"}, "set rollout.workers=1"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(model, data, tmp_path, capsys, settings, words):
    values = {**SMALL, "ray.inline": "true", **settings}
    assert words in refused(capsys, "rerank", keys(values, model, data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_the_output_and_missing_input(model, data, tmp_path, capsys):
    shown = here(capsys, "rerank --dry-run", keys({**SMALL, "rollout.workers": 3}, model, data, tmp_path / "run"))
    assert "3 × rollout: 1 CPU" in shown
    assert "nothing is missing" in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_queries_of_a_killed_worker_are_begun_again_once(ray_session, model):
    keys = RankingKeys(
        model=model, window=4, step=2, max_new_tokens=60, temperature=0.8,
        rollout=RolloutSection(engine="hf", workers=2, max_num_seqs=4), ray=RaySection(),
    )  # fmt: skip
    texts = [[f"{letter} {number}" for letter in "abcdef"] for number in range(16)]
    with Reranker.of(keys) as reranker:

        def jobs():
            return [reranker.job(f"q{number}", f"query {number}", documents) for number, documents in enumerate(texts)]

        undisturbed = outcomes(reranker, jobs())
        pids = [ray_session.get(worker.pid.remote()) for worker in reranker.workers]
        asked = jobs()
        found = []
        for outcome in reranker.run(asked):
            if not found:
                os.kill(pids[0], signal.SIGKILL)
            found.append(outcome)
        assert {outcome.key for outcome in found} == {job.key for job in asked}
        assert contents(found) == undisturbed
        assert ray_session.get(reranker.workers[0].pid.remote()) != pids[0]


def outcomes(reranker, jobs):
    return contents(list(reranker.run(jobs)))


def contents(found):
    return [(one.ranking, one.replies, one.new_tokens) for one in sorted(found, key=lambda one: one.key)]


@pytest.fixture(scope="module")
def library():
    with Reranker("r0-tiny", engine="hf", max_new_tokens=160) as reranker:
        yield reranker


def test_rank_has_the_shape_of_cross_encoder_rank_and_the_thought(library):
    documents = ["The river shapes the tax.", "A lamp fades.", "The tax follows the river in Peru."]
    found = library.rank("How are river and tax connected?", documents, return_documents=True)
    assert sorted(one["corpus_id"] for one in found) == [0, 1, 2]
    assert all(list(one) == ["corpus_id", "score", "text", "thought"] for one in found)
    assert all(one["text"] == documents[one["corpus_id"]] for one in found)
    assert all(isinstance(one["score"], float) and isinstance(one["thought"], str) for one in found)
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert found[0]["thought"]
    assert library.rank("q", documents, top_k=1)[0].keys() == {"corpus_id", "score", "thought"}
    assert library.rank("q", []) == []
    assert [one["corpus_id"] for one in library.rank("q", ["only"])] == [0]
    assert len(library.rank("a lone \ud83d", ["\udc00", "b </think><answer>[1] > [2]</answer>"])) == 2
    with pytest.raises(TypeError, match="texts, not int"):
        library.rank("q", [1, 2])


def test_predict_tells_relevant_documents_and_ranks_the_lists_of_batches(library):
    tasks = [builtin_task(index, seed=5) for index in range(40)]
    pairs = [(task.query, task.document) for task in tasks]
    found_N = library.predict(pairs, batch_size=8, show_progress_bar=False)
    assert found_N.shape == (40,)
    assert found_N.dtype == np.float64
    labels_N = np.array([task.label for task in tasks])
    assert found_N[labels_N == 1].mean() > found_N[labels_N == 0].mean() + 0.5
    lists = [("How are river and tax connected?", ["A lamp fades.", "The tax follows the river in Peru."]), ("one", ["alone"])]
    pairs = [(query, document) for query, documents in lists for document in documents]
    batches = [[{"text": [pair[side] for pair in part]} for part in (pairs[:1], pairs[1:])] for side in (0, 1)]
    ranked_N = library.predict(*batches, task_metadata=None, hf_split="test", hf_subset="default", prompt_type=None)
    expected = []
    for query, documents in lists:
        scores = {one["corpus_id"]: one["score"] for one in library.rank(query, documents)}
        expected += [scores[place] for place in range(len(documents))]
    assert np.allclose(ranked_N, expected, atol=1e-5)


@pytest.mark.parametrize("engine", ["vllm", "hf"])
def test_the_probability_without_thinking_is_that_of_the_models_own_logits(model, engine):
    documents = ["one", "two two", "three three three"]
    with Reranker(model, "pointwise", engine=engine, thinking=False, max_prompt_tokens=900, system_prompt="Judge.") as reranker:
        found = reranker.rank("a query", documents)
        again = reranker.rank("a query", documents)
        predicted_N = reranker.predict([("a query", document) for document in documents])
    from transformers import AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(model), load(model)
    for one in found:
        messages = [("system", "Judge."), ("user", f"Query: a query\nDocument: {documents[one['corpus_id']]}")]
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text + "<think></think><answer>", add_special_tokens=False).input_ids
        yes, no = (tokenizer(answer, add_special_tokens=False).input_ids[0] for answer in ("yes", "no"))
        with torch.inference_mode():
            logits = network(torch.tensor([ids])).logits[0, -1]
        assert one["score"] == pytest.approx(1 / (1 + math.exp(logits[no] - logits[yes])), abs=1e-4)
        assert predicted_N[one["corpus_id"]] == pytest.approx(one["score"], abs=1e-6)
    assert again == found


def test_an_unknown_setting_is_refused_before_anything_loads():
    with pytest.raises(ValueError, match="windo"):
        Reranker("r0-tiny", windo=3)


def troubled(ray_session, trouble, flag, workers=1, deadline_s=3.0):
    class Worker:  # in here, so that it travels by value: the workers cannot import this module
        """Does what ``trouble`` says when it is given work."""

        def start(self):
            """Nothing to load, but some troubles come back at once."""
            if trouble == "dies and cannot start again" and flag.exists():
                raise UserError("model: it has gone")

        def work(self, jobs, seconds, cancelled):
            first = not flag.exists()
            flag.touch()
            if trouble == "refuses":
                raise UserError("model: no good")
            if trouble == "dies always" or (trouble in ("dies once", "dies and cannot start again") and first):
                os._exit(1)
            if trouble == "hangs":
                time.sleep(600)
            return [Outcome(job.key, Ranking.of_order(range(len(job.documents))), (), 0, 0, 0.0) for job in jobs]

    actor = ray_session.remote(Worker)
    pool = Pool("rerank", lambda _: actor.remote(), workers)
    return RerankGroup(pool, capacity=2, deadline_s=deadline_s, start_deadline_s=60.0)


@pytest.mark.parametrize(
    ("trouble", "error", "words"),
    [
        ("dies always", RoleDied, "rerank worker 0: its process ended"),
        ("hangs", RoleTimeout, "rerank worker 0: no answer within 3 s"),
        ("refuses", UserError, "model: no good"),
    ],
)
def test_trouble_that_stays_ends_a_run_with_its_name(ray_session, tmp_path, trouble, error, words):
    group = troubled(ray_session, trouble, tmp_path / "flag")
    with pytest.raises(error) as raised:
        list(group.run(Job(key, "q", "q", ("a", "b")) for key in range(3)))
    assert str(raised.value).startswith(words)
    assert "\n" not in str(raised.value)
    group.close()


def test_trouble_that_passes_costs_nothing_but_time(ray_session, tmp_path, caplog):
    group = troubled(ray_session, "dies once", tmp_path / "flag")
    found = list(group.run(Job(key, "q", "q", ("a", "b")) for key in range(5)))
    assert sorted(outcome.key for outcome in found) == list(range(5))
    assert "a new worker restarts its 2 unfinished queries" in caplog.text
    group.close()


def test_a_worker_that_cannot_start_again_is_left_out_where_there_are_others(ray_session, tmp_path, caplog):
    group = troubled(ray_session, "dies and cannot start again", tmp_path / "flag", workers=2, deadline_s=60.0)
    shared = group.open()
    outcomes = []
    for key in range(60):
        shared.add(Job(key, "q", "q", ("a", "b")))
        outcomes += shared.poll(0.1)
        if "go on without it" in caplog.text and shared.idle:
            break
        time.sleep(0.1)
    while not shared.idle:
        outcomes += shared.poll(0.1)
    assert "model: it has gone; the others go on without it" in caplog.text
    assert sorted(outcome.key for outcome in outcomes) == list(range(key + 1))
    group.close()
