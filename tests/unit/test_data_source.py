"""Readers, the index and tasks by step."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r0.config.commands import DataKeys
from r0.data.hashes import Shuffle, query_hash
from r0.data.source import open_source
from r0.errors import UserError

MUSIQUE = Path(__file__).parents[3] / "shared" / "data" / "musique100"


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def row(index, label=None, **extra):
    label = index % 2 if label is None else label
    return {"query": f"query {index // 4}", "document": f"document {index}", "label": label, **extra}


@pytest.fixture
def rows(tmp_path):
    return write(tmp_path / "rows.jsonl", [row(i, think="t" * (i % 3), answer="yes" if i % 2 else "no") for i in range(400)])


def open_(data, seed=1, **keys):
    return open_source(DataKeys(data=str(data), **keys), seed)


@given(st.integers(1, 3000), st.integers(0, 1 << 64))
def test_a_shuffle_is_a_permutation(size, key):
    order = Shuffle(size, key)
    assert sorted(order[place] for place in range(size)) == list(range(size))


def test_an_epoch_shows_every_row_once_and_the_next_in_another_order(rows):
    source = open_(rows, heldout_share=0.0)
    steps = source.steps_per_epoch(16)
    epochs = [[task.task_id for step in range(start, start + steps) for task in source.batch(step, 16)] for start in (0, steps)]
    assert all(sorted(epoch) == list(range(400)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [task.task_id for task in open_(rows, heldout_share=0.0).batch(3, 16)] == epochs[0][48:64]
    assert [task.task_id for task in open_(rows, seed=2, heldout_share=0.0).batch(3, 16)] != epochs[0][48:64]


@pytest.mark.parametrize(
    ("given", "document"),
    [
        ({"query": "q", "document": "d", "label": 1, "think": None, "answer": None}, "d"),
        ({"query": "q", "content": "d", "label": True, "meta": 1}, "d"),
        ({"sentence1": "q", "sentence2": "d", "label": "1.0", "meta": 1}, "d"),
        ({"query": "q", "hits": [{"content": "d", "title": None, "label": 1, "meta": 1}]}, "d"),
        ({"query": "q", "hits": [{"text": "d", "title": "T", "label": 1}], "meta": 1}, "T. d"),
    ],
)
def test_rows_with_other_names_are_read_and_keys_that_are_not_read_are_named(tmp_path, given, document):
    source = open_(write(tmp_path / "rows.jsonl", [given, given]), heldout_share=0.0)
    task = source.task(1)
    assert (task.query, task.document, task.label) == ("q", document, 1)
    name = "hits.meta" if any("meta" in hit for hit in given.get("hits", ())) else "meta"
    assert (f'the key "{name}" is not read (rows: 2)' in source.summary()) == ("meta" in json.dumps(given))
    assert source.summary().count("is not read") == ("meta" in json.dumps(given))


def test_a_task_is_the_row_of_its_id(rows):
    source = open_(rows)
    task = source.task(5)
    assert (task.task_id, task.query, task.document, task.label, task.think) == (5, "query 1", "document 5", 1, "tt")
    assert pickle.loads(pickle.dumps(source)).batch(2, 4) == source.batch(2, 4)
    assert [task.think for task in source.tasks(with_thought=True)].count("") == 0
    assert len(source.train_rows()) == len(source)


def test_a_query_is_never_on_both_sides_and_stays_where_it_is(tmp_path, rows):
    source = open_(rows, heldout_share=0.3)
    held, train = {task.query for task in source.heldout(1000)}, {task.query for task in source.tasks()}
    assert held
    assert not held & train
    assert len(source) + source.heldout_rows == 400
    more = open_(write(tmp_path / "more.jsonl", [row(i) for i in range(-80, 500)]), heldout_share=0.3)
    assert {query for query in held | train if query in {task.query for task in more.heldout(1000)}} == held
    assert source.heldout(7) == source.heldout(7)
    assert len(source.heldout(7)) == 7
    assert query_hash("Wo ist  Straße?") == query_hash("wo ist strasse? ")


def test_few_queries_still_give_both_sides(tmp_path):
    source = open_(write(tmp_path / "few.jsonl", [row(i) for i in range(12)]), heldout_share=0.01)
    assert (source.train_queries, source.heldout_queries) == (2, 1)
    source = open_(write(tmp_path / "one.jsonl", [row(i) for i in range(4)]), heldout_share=0.5)
    assert (source.train_queries, source.heldout_rows) == (1, 0)
    assert source.heldout(5) == []


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_refills_draw_other_rows(rows, sampling):
    source = open_(rows, label_sampling=sampling)
    draws = [[task.task_id for task in source.batch(5, 16, refill)] for refill in range(4)]
    assert len({row for draw in draws for row in draw}) == 64
    assert draws == [[task.task_id for task in source.batch(5, 16, refill)] for refill in range(4)]


def test_balanced_batches_are_half_relevant(tmp_path):
    path = write(tmp_path / "rows.jsonl", [row(i, int(i % 10 == 0)) for i in range(400)])
    source = open_(path, label_sampling="balanced", heldout_share=0.0)
    batches = [source.batch(step, 5) for step in range(80)]
    assert {sum(task.label for task in batch) for batch in batches} == {2, 3}
    seen = Counter(task.task_id for batch in batches for task in batch if task.label)
    assert len(seen) == 40
    assert set(seen.values()) == {5}
    with pytest.raises(UserError, match=r"every training row .* is not relevant"):
        open_(write(tmp_path / "none.jsonl", [row(i, 0) for i in range(8)]), label_sampling="balanced", heldout_share=0.0)


def test_too_few_rows_for_a_batch(tmp_path):
    source = open_(write(tmp_path / "rows.jsonl", [row(i) for i in range(6)]), heldout_share=0.0)
    with pytest.raises(UserError, match="6 training rows, fewer than 16; set batch_size to at most 6"):
        source.batch(0, 16)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"query": "q", "label": 1, "think": "", "document": None}, '"document" must be a string, not null'),
        ({"query": "q", "document": "d"}, 'the field "label" is missing'),
        (row(1, 2), "the label 2 is outside 0 to 1; graded labels need"),
        (row(1, 0.5), "neither 0 nor 1"),
        (row(1, [1]), '"label" must be a number, not a list'),
        (row(1, 1, answer="no"), 'the answer "no" contradicts the label 1'),
        (row(1, 1, answer="maybe"), '"answer" must be "yes" or "no", not "maybe"'),
        (row(1, 1, think=3), '"think" must be a string'),
        ('{"query": "q", "query": "r"}', "twice"),
    ],
)
def test_bad_rows_are_named(tmp_path, bad, reason):
    path = write(tmp_path / "rows.jsonl", [row(0), row(1), bad, row(3)])
    with pytest.raises(UserError, match=f"rows.jsonl:3: .*{reason}"):
        open_(path)
    source = open_(path, skip_bad=True, heldout_share=0.0)
    assert (len(source), source.rows.bad.count) == (3, 1)
    assert "rows.jsonl:3" in source.summary()


def test_graded_labels_need_a_range_and_a_threshold(tmp_path):
    path = write(tmp_path / "rows.jsonl", [row(i, i % 4) for i in range(8)])
    source = open_(path, max_label=3.0, relevance_threshold=2.0, heldout_share=0.0)
    assert [task.label for task in source.tasks()] == [0, 0, 1, 1] * 2
    with pytest.raises(UserError, match="relevance_threshold: 4 is not above"):
        open_(path, max_label=3.0, relevance_threshold=4.0)


def test_each_hit_of_a_grouped_row_is_a_task(tmp_path):
    groups = [{"query": f"q{g}", "hits": [{"content": f"d{g}{h}", "label": h % 2} for h in range(3)]} for g in range(5)]
    path = write(tmp_path / "groups.jsonl", groups)
    source = open_(path, heldout_share=0.0)
    assert [(task.query, task.document, task.label) for task in source.tasks()][4] == ("q1", "d11", 1)
    assert len(source) == 15
    for hits, reason in (([], '"hits" is empty'), ([{"content": "c"}], r"hits\[0\]: .*label")):
        with pytest.raises(UserError, match=reason):
            open_(write(tmp_path / "bad.jsonl", [groups[0], {"query": "q", "hits": hits}]))


def test_invalid_data_is_refused_with_the_remedy(tmp_path, rows):
    raw = {"query": "q", "response": "r", "response_thinking": "", "rejected_response": []}
    for data, keys, words in (
        (tmp_path / "none.jsonl", {}, "no such file or folder"),
        (tmp_path, {}, "directory without corpus.jsonl"),
        (write(tmp_path / "raw.jsonl", [raw]), {}, "is a raw log; first run `convert"),
        (write(tmp_path / "empty.jsonl", []), {}, "the file is empty|contains no rows"),
        (write(tmp_path / "blank.jsonl", ["", " "]), {}, "contains no rows"),
        (write(tmp_path / "corpus_.jsonl", [{"_id": "1", "text": "t"}]), {}, "a file of a BEIR folder"),
        (write(tmp_path / "other.jsonl", [{"a": 1}]), {}, "other.jsonl:1: not a row of tasks"),
        (write(tmp_path / "bad.jsonl", ["x"]), {"skip_bad": True}, "contains no rows"),
        (rows, {"run": "some.run"}, "remove run"),
        ("builtin", {"run": "some.run"}, "remove run"),
    ):
        with pytest.raises(UserError, match=words):
            open_(data, **keys)


def test_a_file_that_changes_during_the_run_is_noticed(tmp_path):
    path = write(tmp_path / "rows.jsonl", [row(i) for i in range(8)])
    source = open_(path)
    write(tmp_path / "rows.jsonl", [row(i) for i in range(9)])
    with pytest.raises(UserError, match="was changed or removed"):
        source.task(3)


def test_a_large_file_costs_few_bytes_a_row(tmp_path):
    import tracemalloc

    path, count = tmp_path / "large.jsonl", 40_000
    with path.open("w") as file:
        for index in range(count):
            file.write(f'{{"query": "q{index // 5}", "document": "d", "label": {index % 2}, "think": ""}}\n')
    tracemalloc.start()
    source = open_(path)
    after_opening = tracemalloc.get_traced_memory()[0]
    for step in range(20):
        source.batch(step, 64)
    after_reading = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert source.rows.nbytes() / count <= 25
    assert after_opening / count < 64
    assert after_reading - after_opening < 200_000


def beir(folder, run_lines, judged="q1\td1\t1\nq1\td2\t0\nq2\td/3'\t2\n"):
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [{"_id": "d1", "title": "One", "text": "first"}, {"_id": "d2", "title": "", "text": "second"}]
    write(folder / "corpus.jsonl", [*corpus, {"_id": "d/3'", "title": "Why?", "text": "third"}, {"_id": "d4", "text": ""}])
    write(folder / "queries.jsonl", [{"_id": "q1", "text": "query one"}, {"_id": "q2", "text": "query two"}])
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (folder / "a.run").write_text("".join(line + "\n" for line in run_lines))
    return {"data": folder, "run": str(folder / "a.run")}


RUN = ["q1 Q0 d2 1 9.5 x", "q1\tQ0\td1\t2\t9\tx", "q2   Q0 d/3'  1 3 x", "q2 Q0 d1 2 2 x", "q2 Q0 d4 3 1e-3 x"]


def test_each_candidate_of_a_run_is_a_task(tmp_path):
    source = open_(**beir(tmp_path, RUN), heldout_share=0.0)
    tasks = [(task.query, task.document, task.label) for task in source.tasks()]
    expected = [("query one", "second", 0), ("query one", "One. first", 1), ("query two", "Why?. third", 1)]
    assert tasks == [*expected, ("query two", "One. first", 0), ("query two", "", 0)]
    assert source.rows.unjudged == 2
    assert "2 candidates without a judgement" in source.summary()
    strict = open_(**beir(tmp_path, RUN), heldout_share=0.0, relevance_threshold=2.0)
    assert [task.label for task in strict.tasks()] == [0, 0, 1, 0, 0]
    assert pickle.loads(pickle.dumps(strict)).task(2) == strict.task(2)


@pytest.mark.parametrize(
    ("lines", "judged", "reason"),
    [
        ([*RUN, "q3 Q0 d1 1 1 x"], "", r'a.run:6: the query "q3" is not in .*queries.jsonl'),
        ([*RUN, "q1 Q0 d9 1 1 x"], "", r'a.run:6: the document "d9" is not in .*corpus.jsonl'),
        ([*RUN, RUN[0]], "", "a.run:6: this candidate .* occurs twice"),
        ([*RUN, "q1 Q0 d1 1 1"], "", "a.run:6: 5 columns where a run has 6"),
        ([*RUN, "q1 Q0 d4 1 nan x"], "", "a.run:6: the score .* is not finite"),
        (RUN, "q1\td1\t1\nq1\td1\t0\n", "test.tsv:3: this judgement .* occurs twice"),
        (RUN, "q1\td1\tyes\n", 'test.tsv:2: the grade "yes" is not a number'),
    ],
)
def test_bad_runs_and_judgements_are_named(tmp_path, lines, judged, reason):
    keys = beir(tmp_path, lines, judged)
    with pytest.raises(UserError, match=reason):
        open_(**keys)
    source = open_(**keys, skip_bad=True, heldout_share=0.0)
    assert (len(source), source.rows.bad.count) == (5, 1)


def test_beir_folders_that_lack_something(tmp_path):
    keys = beir(tmp_path, RUN)
    with pytest.raises(UserError, match="give run=FILE"):
        open_(tmp_path)
    with pytest.raises(UserError, match="choose qrels=test"):
        open_(**keys, qrels="dev")
    with pytest.raises(UserError, match="outside 0 to 1"):
        open_(**keys, max_label=1.0)
    write(tmp_path / "corpus.jsonl", [{"_id": "d1", "text": "t"}, {"_id": "d1", "text": "u"}])
    with pytest.raises(UserError, match=r'corpus.jsonl:2: this "_id" occurs twice'):
        open_(**keys)


def test_the_builtin_task_is_a_source_too():
    source = open_("builtin", builtin_rows=200)
    assert len(source) + source.heldout_rows == 200
    assert source.batch(1, 8) == open_("builtin", builtin_rows=200).batch(1, 8)
    assert all(task.think and task.kind for task in source.batch(1, 8))


@pytest.mark.skipif(not MUSIQUE.is_dir(), reason="needs shared/data/musique100 beside the project")
def test_real_data(tmp_path):
    from r0.config.commands import ConvertConfig
    from r0.data.convert import convert

    done = convert(ConvertConfig(input=str(MUSIQUE / "raw_log.jsonl"), output=str(tmp_path / "rows.jsonl")))
    assert (done.lines, done.yes, done.no, done.bad.count) == (100, 100, 500, 0)
    source = open_(done.output, heldout_share=0.0)
    assert (len(source), source.train_queries, len(source.train_rows(with_thought=True))) == (600, 100, 600)
    folder = open_(MUSIQUE, run=str(MUSIQUE / "given_order.trec"), heldout_share=0.0)
    assert (len(folder), sum(task.label for task in folder.tasks()), folder.rows.unjudged) == (2000, 237, 0)
    logged = {(task.query, task.document) for task in source.tasks()}
    assert len(logged - {(task.query, task.document) for task in folder.tasks()}) == 0
