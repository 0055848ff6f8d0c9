"""Lists to rank from every format: first-stage order, windows, negatives of other queries, thoughts to imitate."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r0.config.commands import DataKeys, SftConfig
from r0.config.rl import StageBConfig
from r0.data.source import open_source
from r0.errors import UserError
from r0.records import Form, ListwiseTask

MUSIQUE = Path(__file__).parents[2].parent / "shared" / "data" / "musique100"


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def open_(data, seed=1, **keys):
    return open_source(StageBConfig(data=str(data), **{"heldout_share": 0.0, **keys}), seed)


def warm(data, **keys):
    return open_source(SftConfig(data=str(data), **{"heldout_share": 0.0, "answer": "permutation", **keys}), 1, with_thought=True)


def group(name, labels, **extra):
    return {"query": f"query {name}", "hits": [{"content": f"{name}-{i}", "label": y} for i, y in enumerate(labels)], **extra}


def as_given(task):
    """(document, grade) in the given order."""
    return [(task.documents[place], task.label.grades[place]) for place in task.label.given]


def beir(folder, run_lines, judged):
    write(folder / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(12)])
    write(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(4)])
    write(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *judged])
    return {"data": folder, "run": write(folder / "a.run", run_lines)}


RUN = ["q0 Q0 d1 9 1.0 x", "q0 Q0 d2 1 2.0 x", "q0 Q0 d10 1 1.0 x", "q1 Q0 d3 1 1 x", "q1 Q0 d4 2 0 x", "q0 Q0 d5 1 -1 x"]
JUDGED = ["q0\td1\t2", "q0\td5\t1", "q1\td3\t0", "q2\td0\t1"]


def test_lists_of_a_run_have_its_order_and_the_grades_of_the_judgements(tmp_path):
    keys = beir(tmp_path, RUN, JUDGED)
    source = open_(**keys)
    (task,) = source.tasks()
    assert (task.query, task.form, source.rows.no_relevant) == ("query 0", Form.PERMUTATION, 1)
    assert as_given(task) == [("text 2", 0.0), ("text 10", 0.0), ("text 1", 2.0), ("text 5", 1.0)]
    assert task.label.relevant == {task.documents.index("text 1"), task.documents.index("text 5")}
    assert "1 lists without a relevant document dropped; 3 candidates without a judgement" in source.summary()
    strict = next(open_(**keys, relevance_threshold=2.0).tasks())
    assert strict.label.relevant == {strict.documents.index("text 1")}
    assert pickle.loads(pickle.dumps(source)).batch(0, 1) == source.batch(0, 1)


def test_equal_scores_are_ordered_by_id_last_first(tmp_path):
    run = ["q0 Q0 d1 1 0.1 x", "q0 Q0 d3 1 0.1000000001 x", "q0 Q0 d2 1 0.1 x", "q0 Q0 d0 1 5 x"]
    (task,) = open_(**beir(tmp_path, run, JUDGED)).tasks()
    assert [document for document, _ in as_given(task)] == ["text 0", "text 3", "text 2", "text 1"]


def test_judgements_may_be_a_file(tmp_path):
    keys = beir(tmp_path, RUN, JUDGED)
    other = write(tmp_path / "else" / "trec.qrels", ["q1 0 d4 1"])
    (task,) = open_(**keys, qrels=other).tasks()
    assert (task.query, as_given(task)) == ("query 1", [("text 3", 0.0), ("text 4", 1.0)])
    pointwise = open_source(DataKeys(**{**keys, "data": str(keys["data"])}, qrels=other, heldout_share=0.0), 1)
    assert sum(task.label for task in pointwise.tasks()) == 1
    with pytest.raises(UserError, match="qrels=test, or give a file"):
        open_(**keys, qrels="dev")


def test_a_grouped_row_is_a_list(tmp_path):
    rows = [group("a", [0, 1, 0]), group("b", [0, 0]), group("c", [1]), group("d", [1, 1])]
    source = open_(write(tmp_path / "groups.jsonl", rows))
    tasks = {task.query: task for task in source.tasks()}
    assert {query: as_given(task) for query, task in tasks.items()} == {
        "query a": [("a-0", 0.0), ("a-1", 1.0), ("a-2", 0.0)],
        "query d": [("d-0", 1.0), ("d-1", 1.0)],
    }
    assert (source.rows.no_relevant, source.rows.too_short) == (1, 1)
    text = "2 training lists of 2 queries; 0 held-out lists of 0 queries; 1 lists without a relevant document dropped; "
    assert f"{text}1 lists of fewer than 2 documents dropped" in source.summary()
    assert source.facts()["training lists"] == 2


def test_pointwise_rows_are_grouped_by_query_in_the_order_of_the_file(tmp_path):
    pairs = [("A", "a0", 0), ("b", "b0", 1), ("a ", "a1", 3), ("b", "b1", 0), ("a", "a0 ", 2), ("a", "a2", 0.5)]
    rows = [{"query": query, "document": document, "label": label} for query, document, label in pairs]
    source = open_(write(tmp_path / "rows.jsonl", rows), min_label=0.0, max_label=3.0, answer="scores")
    first, second = source.tasks()
    assert (first.query, as_given(first), first.form) == ("A", [("a0", 0.0), ("a1", 3.0), ("a2", 0.5)], Form.SCORES)
    assert (second.query, as_given(second)) == ("b", [("b0", 1.0), ("b1", 0.0)])
    assert "1 repeated documents dropped from lists" in source.summary()


def test_grades_are_compared_as_they_are_written(tmp_path):
    rows = [group("a", [0.7, 0.2]), group("b", [0.1, 0.69])]
    source = open_(write(tmp_path / "groups.jsonl", rows), min_label=0.0, max_label=1.0, relevance_threshold=0.7)
    (task,) = source.tasks()
    assert (task.query, [task.documents[i] for i in task.label.relevant]) == ("query a", ["a-0"])


def requests():
    rows = []
    for name in ("x", "y/'1"):
        candidates = [{"docid": f"{name}{i}", "score": 9 - i if i else 0.5, "doc": {"contents": f"{name} {i}"}} for i in range(4)]
        rows.append({"query": {"text": f"query {name}", "qid": name}, "candidates": candidates})
    return rows


def test_requests_are_lists_and_rows(tmp_path):
    data, qrels = write(tmp_path / "requests.jsonl", requests()), write(tmp_path / "qrels.tsv", ["x\tx1\t3", "x\tx3\t1"])
    source = open_(data, qrels=qrels)
    (task,) = source.tasks()
    assert (task.query, as_given(task)) == ("query x", [("x 1", 3.0), ("x 2", 0.0), ("x 3", 1.0), ("x 0", 0.0)])
    assert "6 candidates without a judgement" in source.summary()
    rows = open_source(DataKeys(data=data, qrels=qrels, heldout_share=0.0, relevance_threshold=2.0), 1)
    assert [(task.query[6], task.document, task.label) for task in rows.tasks()][:3] == [
        ("x", "x 1", 1),
        ("x", "x 2", 0),
        ("x", "x 3", 0),
    ]
    assert len(rows) == 8
    for open_it in (open_, lambda data: open_source(DataKeys(data=data), 1)):
        with pytest.raises(UserError, match=r'qrels: "test" is not a file; give qrels=FILE'):
            open_it(data)
    with pytest.raises(UserError, match=r'requests.jsonl:3: the query "x" occurs twice'):
        open_(write(tmp_path / "requests.jsonl", [*requests(), requests()[0]]), qrels=qrels)
    with pytest.raises(UserError, match=r"qrels.tsv:1: the grade 3 is outside 0 to 2"):
        open_(write(tmp_path / "requests.jsonl", requests()), qrels=qrels, max_label=2.0)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(2, 6),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_windows_are_parts_of_the_given_order_with_something_relevant(tmp_path_factory, groups, size, wanted, seed):
    rows = [group(f"g{g}", labels) for g, labels in enumerate(groups)]
    path = write(tmp_path_factory.mktemp("lists") / "groups.jsonl", rows)
    possible = {f"query g{g}": _possible(labels, size) for g, labels in enumerate(groups)}
    if not any(possible.values()):
        with pytest.raises(UserError, match="all lists of"):
            open_(path, candidates=size, lists_per_query=wanted)
        return
    source = open_(path, seed, candidates=size, lists_per_query=wanted)
    found: dict[str, list[int]] = {}
    for task in source.tasks():
        places = [int(document.split("-")[1]) for document, _ in as_given(task)]
        assert places == list(range(places[0], places[-1] + 1))
        assert [grade for _, grade in as_given(task)] == groups[int(task.query.split("g")[1])][places[0] : places[-1] + 1]
        assert task.label.relevant
        found.setdefault(task.query, []).append(places[0])
    assert all(len(set(starts)) == len(starts) == min(wanted, len(possible[query])) for query, starts in found.items())
    assert all(set(starts) <= set(possible[query]) for query, starts in found.items())
    assert {query for query, starts in possible.items() if starts} == set(found)
    assert source.rows.too_short == sum(len(labels) < 2 for labels in groups)
    assert source.rows.no_relevant == sum(len(labels) > 1 and not any(labels) for labels in groups)


def _possible(labels, size):
    """Where the windows of a list can begin."""
    if len(labels) < 2:
        return []
    starts = range(max(1, len(labels) - size + 1))
    return [start for start in starts if any(labels[start : start + size])]


def test_the_shown_order_is_uninformative_and_depends_on_the_seed_alone(tmp_path):
    rows = [group(f"g{g}", [1, 0, 0, 0]) for g in range(400)]
    path = write(tmp_path / "groups.jsonl", rows)
    source = open_(path)
    shown = Counter(task.documents.index(f"{task.query[6:]}-0") for task in source.tasks())
    assert min(shown.values()) > 70  # of 100
    assert len(shown) == 4
    assert [source.task(row).documents for row in (7, 3, 7)] == [open_(path).task(row).documents for row in (7, 3, 7)]
    assert source.task(7).documents != open_(path, seed=4).task(7).documents or source.task(8) != open_(path, seed=4).task(8)
    write(tmp_path / "more.jsonl", [group("new", [1, 0]), *rows])
    assert open_(tmp_path / "more.jsonl").task(8).documents == source.task(7).documents


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_negatives_of_other_queries_take_the_places_of_irrelevant_documents(tmp_path, share):
    rows = [group(f"g{g}", [1, 0, 0, 2, 0, 0]) for g in range(20)]
    for row in rows:
        row["hits"].append({"content": "the same everywhere", "label": 0})
    path = write(tmp_path / "groups.jsonl", rows)
    keys = {"max_label": 2.0, "random_negatives": share}
    plain, source = open_(path, max_label=2.0), open_(path, **keys)
    foreign = Counter()
    for before, task in zip(plain.tasks(), source.tasks(), strict=True):
        pairs = list(zip(as_given(before), as_given(task), strict=True))
        own = {document for document, _ in as_given(before)}
        changed = [(old, new) for old, new in pairs if old != new]
        assert len(changed) == round(share * 5)
        assert all(old[1] == 0 and new[1] == 0 and new[0] not in own for old, new in changed)
        assert len(set(task.documents)) == task.size == 7
        foreign.update(new[0].split("-")[0] for _, new in changed)
    assert share == 0 or len(foreign) > 12
    assert list(open_(path, **keys).tasks()) == list(source.tasks())


def test_a_document_judged_relevant_is_not_a_negative(tmp_path):
    run = [f"q{q} Q0 d{d} 1 {9 - d} x" for q, documents in ((0, (0, 1)), (1, (2, 3, 4, 5))) for d in documents]
    judged = ["q0\td0\t1", "q1\td2\t1", "q0\td2\t1", "q0\td3\t1", "q0\td4\t1"]  # of q1's documents only d5 is irrelevant for q0
    keys = beir(tmp_path, run, judged)
    task = next(task for task in open_(**keys, random_negatives=1.0).tasks() if task.query == "query 0")
    assert as_given(task) == [("text 0", 1.0), ("text 5", 0.0)]
    rows = [{"query": {"text": f"query {q}", "qid": f"q{q}"}, "candidates": []} for q in (0, 1)]
    for q, documents in ((0, (0, 1)), (1, (2, 3, 4, 5))):
        rows[q]["candidates"] = [{"docid": f"d{d}", "doc": {"text": f"text {d}"}} for d in documents]
    data = write(tmp_path / "requests.jsonl", rows)
    tasks = open_(data, qrels=str(tmp_path / "qrels" / "test.tsv"), random_negatives=1.0).tasks()
    assert as_given(next(task for task in tasks if task.query == "query 0")) == [("text 0", 1.0), ("text 5", 0.0)]


def test_lists_of_the_same_query_are_not_each_others_negatives(tmp_path):
    rows = [group("a", [1, 0]), {**group("b", [1, 0]), "query": "Query  A"}, group("c", [1, 0])]
    for task in open_(write(tmp_path / "groups.jsonl", rows), random_negatives=1.0).tasks():
        changed = [document for document, grade in as_given(task) if not grade]
        assert changed[0][0] == "c" if task.query.lower().endswith("a") else changed[0][0] in "ab"
    with pytest.raises(UserError, match="has only one query, so there are no others; use random_negatives=0"):
        open_(write(tmp_path / "groups.jsonl", rows[:2]), random_negatives=1.0)


def test_lists_of_one_query_are_on_one_side(tmp_path):
    path = write(tmp_path / "groups.jsonl", [group(f"g{g}", [1] * 9) for g in range(40)])
    source = open_(path, candidates=3, lists_per_query=4, heldout_share=0.3)
    held, train = Counter(task.query for task in source.heldout(1000)), Counter(task.query for task in source.tasks())
    assert held
    assert not held.keys() & train.keys()
    assert set(held.values()) == set(train.values()) == {4}
    assert source.summary().startswith(
        f"{path}: {len(train) * 4} training lists of {len(train)} queries; {len(held) * 4} held-out"
    )


def test_rows_to_imitate_are_shown_as_they_stand(tmp_path):
    rows = [
        group("a", [0, 1, 1], think=" [2] and [3] say it. ", answer="[2] = [3] > [1]"),
        group("b", [1, 0]),
        group("c", [1, 0, 0], think="only [1]"),
        group("d", [0, 0], think="none"),
    ]
    rows[2]["hits"][2]["content"] = "c-1"  # said twice: the thought numbers both
    path = write(tmp_path / "groups.jsonl", rows)
    source = warm(path, random_negatives=1.0, candidates=3)
    first, second = source.tasks()
    assert (first.documents, first.label.given) == (("a-0", "a-1", "a-2"), (0, 1, 2))
    assert (first.think, first.answer) == ("[2] and [3] say it.", "[2] = [3] > [1]")
    assert (second.documents, second.think, second.answer) == (("c-0", "c-1", "c-1"), "only [1]", "")
    assert source.left_out == 1
    assert "1 lists without a thought dropped; 1 lists without a relevant document dropped" in source.summary()
    trained = open_(path, answer="pick")  # thoughts are passed over, and so is the answer of another form
    assert {task.think + task.answer for task in trained.tasks()} == {""}
    assert {task.size for task in trained.tasks()} == {2, 3}


@pytest.mark.parametrize(
    ("row", "keys", "reason"),
    [
        (
            group("a", [1, 0, 0], think="t"),
            {"candidates": 2},
            "the list has 3 documents, more than candidates=2, and its thought",
        ),
        (group("a", [1, 0], think="t", answer="[1] > [3]"), {}, '"answer" is not an answer of the form permutation.*unknown_id'),
        (group("a", [1, 0], think="t", answer="[1]"), {}, "missing_id"),
        (group("a", [1, 0], think="t", answer="[2] > [1]"), {"answer": "pick"}, "of the form pick for 2 documents: bad_answer"),
        (group("a", [1, 0], think="t", answer=3), {}, '"answer" must be a string'),
        (group("a", [1, 0], think=3), {}, '"think" must be a string'),
        (group("a", [1, 2], think="t"), {}, r"hits\[1\]: the label 2 is outside 0 to 1"),
    ],
)
def test_bad_rows_to_imitate_are_named(tmp_path, row, keys, reason):
    path = write(tmp_path / "groups.jsonl", [group("z", [1, 0], think="[1]"), row])
    with pytest.raises(UserError, match=f"groups.jsonl:2: .*{reason}"):
        warm(path, **keys)
    source = warm(path, **keys, skip_bad=True)
    assert (len(source), source.rows.bad.count) == (1, 1)


def test_what_gives_no_lists_is_refused_with_the_remedy(tmp_path):
    path = write(tmp_path / "groups.jsonl", [group("a", [0, 0]), group("b", [1])])
    with pytest.raises(UserError, match=r"all lists of .* dropped: 1 lists without a relevant .*; 1 lists of fewer than 2"):
        open_(path)
    with pytest.raises(UserError, match="a list holds both classes"):
        open_(path, label_sampling="balanced")
    path = write(tmp_path / "rows.jsonl", [{"query": "q", "document": f"d{i}", "label": i, "think": "t"} for i in (0, 1)])
    with pytest.raises(UserError, match=r"no list of .* has a thought to imitate; give grouped rows"):
        warm(path)
    with pytest.raises(UserError, match="1 training lists, fewer than 4; set batch_size to at most 1"):
        open_(path).batch(0, 4)
    with pytest.raises(UserError, match='"query", "candidates"'):
        open_(write(tmp_path / "other.jsonl", [{"a": 1}]))


def test_a_file_that_changes_during_the_run_is_noticed(tmp_path):
    path = write(tmp_path / "groups.jsonl", [group(f"g{g}", [1, 0]) for g in range(8)])
    source = open_(path)
    opened = pickle.loads(pickle.dumps(source))
    opened.task(2)
    write(tmp_path / "groups.jsonl", [group(f"h{g}", [1, 0]) for g in range(8)])
    for one in (source, opened):
        with pytest.raises(UserError, match="was changed or removed"):
            one.task(3)


def test_many_lists_cost_few_bytes(tmp_path):
    import tracemalloc

    path, count = tmp_path / "large.jsonl", 4_000
    hits = ", ".join(f'{{"content": "some text of document {i}", "label": {int(i == 3)}}}' for i in range(10))
    with path.open("w") as file:
        for index in range(count):
            file.write(f'{{"query": "q{index}", "hits": [{hits}]}}\n')
    tracemalloc.start()
    source = open_(path)
    after_opening = tracemalloc.get_traced_memory()[0]
    for step in range(10):
        source.batch(step, 64)
    after_reading = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert source.rows.nbytes() / (10 * count) <= 22
    assert after_opening / (10 * count) < 40
    assert after_reading - after_opening < 200_000


def test_the_builtin_task_makes_lists():
    source = open_("builtin", builtin_rows=60, candidates=5)
    assert {task.size for task in source.tasks()} <= {2, 3, 4, 5}
    assert all(isinstance(task, ListwiseTask) and task.label.relevant for task in source.tasks())
    assert len(warm("builtin", builtin_rows=20, candidates=5)) == 20


@pytest.mark.skipif(not MUSIQUE.is_dir(), reason="needs shared/data/musique100 beside the project")
def test_real_lists(tmp_path):
    from r0.config.commands import ConvertConfig
    from r0.data.convert import convert

    source = open_(MUSIQUE, run=str(MUSIQUE / "given_order.trec"), random_negatives=0.5)
    tasks = list(source.tasks())
    assert (len(tasks), {task.size for task in tasks}, sum(len(task.label.relevant) for task in tasks)) == (100, {20}, 237)
    plain = list(open_(MUSIQUE, run=str(MUSIQUE / "given_order.trec")).tasks())
    first = [line for line in (MUSIQUE / "corpus.jsonl").read_text().splitlines() if f'"{_first_id()}#' in line]
    texts = [f"{row['title']}. {row['text']}" for row in map(json.loads, first)]
    assert [document for document, _ in as_given(plain[0])] == texts
    assert sum(len(set(a.documents) - set(b.documents)) for a, b in zip(tasks, plain, strict=True)) > 800
    done = convert(ConvertConfig(input=str(MUSIQUE / "raw_log.jsonl"), output=str(tmp_path / "rows.jsonl")))
    lists = open_(done.output)
    assert (len(lists), lists.rows.no_relevant, {task.size for task in lists.tasks()}) == (100, 0, {6})


def _first_id():
    return json.loads((MUSIQUE / "queries.jsonl").read_text().splitlines()[0])["_id"]
