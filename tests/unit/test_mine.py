"""Hard negatives: selection by hand, files that every reader accepts, bad input, musique100."""

import json
from collections import Counter
from pathlib import Path

import pytest

from r0.commands.mine import run
from r0.config import FinetuneConfig, MineConfig, StageAConfig, StageBConfig
from r0.data.formats import open_lists, open_rows
from r0.data.jsonl import BadLines
from r0.data.labelled import LabelBounds
from r0.data.labelled_rows import kind_of_labelled, read_labelled
from r0.errors import UserError
from r0.launch import main
from r0.mining.collection import open_collection
from r0.supervised.finetune.data import Preparation, check_loss

MUSIQUE = Path(__file__).parents[2].parent / "shared" / "data" / "musique100"
needs_musique = pytest.mark.skipif(not MUSIQUE.is_dir(), reason="the test data is not here")

# The run ranks d1 … d9 for q1 with scores 9 … 1; d3 and d7 are relevant.
CORPUS = {f"d{number}": f"text number {number}" for number in range(1, 10)} | {"far": "something else", "farther": "else again"}
QUERIES = {"q1": "which number", "q2": "what else"}
QRELS = {("q1", "d3"): 1, ("q1", "d7"): 2, ("q1", "d4"): 0, ("q2", "far"): 1}
RUN = {"q1": {f"d{number}": 10.0 - number for number in range(1, 10)}, "q2": {"farther": 2.0, "far": 1.0, "d1": 0.5}}


def beir(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS, run=RUN):
    (folder / "qrels").mkdir(parents=True)
    lines = [{"_id": name, "title": "", "text": text} for name, text in corpus.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"_id": name, "text": text} for name, text in queries.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = "".join(f"{query}\t{document}\t{grade}\n" for (query, document), grade in qrels.items())
    (folder / "qrels" / "train.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    ranked = [(query, name, score) for query, scores in run.items() for name, score in scores.items()]
    (folder / "run.trec").write_text("".join(f"{query} Q0 {name} 1 {score} x\n" for query, name, score in ranked))
    return folder


def of_run(folder, **keys):
    """Mine by the run, all of the given ranks; returns {query: [(text, label), …]} of each epoch."""
    values = {"source": "run", "run": str(folder / "run.trec"), "ranks": ("1-9",), "negatives": 9, "sampling": "top", **keys}
    return mined(folder, **values)


def mined(folder, output=None, **keys):
    output = output or folder / f"mined{len(list(folder.iterdir()))}"
    assert run(MineConfig(data=str(folder), output=str(output), **keys), dry_run=False) == 0
    return [groups(path) for path in sorted((output / "data").glob("groups*.jsonl"))]


def groups(path):
    return {row["query"]: [(hit["content"], hit["label"]) for hit in row["hits"]] for row in map(json.loads, path.open())}


def negatives(group):
    return [int(text.rpartition(" ")[2]) for text, label in group if not label]


def statistics(folder, output):
    return json.loads((output / "data" / "statistics.json").read_text())


def test_ranks_are_counted_from_one_with_both_ends_and_positives_among_them(tmp_path):
    (found,) = of_run(beir(tmp_path), ranks=("2-5",), negatives=4)
    # ranks 2 to 5 are d2, d3 (relevant), d4, d5; the group is in the order of the ranking with both positives in their places
    assert found["which number"] == [
        ("text number 2", 0), ("text number 3", 1), ("text number 4", 0), ("text number 5", 0), ("text number 7", 1)
    ]  # fmt: skip


def test_the_number_of_negatives_is_a_limit_and_top_takes_the_first(tmp_path):
    (found,) = of_run(beir(tmp_path), negatives=3)
    assert negatives(found["which number"]) == [1, 2, 4]
    assert [text for text, label in found["what else"] if not label] == ["else again", "text number 1"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [  # the lowest positive is d7 with the score 3
        ({"margin": 0.0}, [8, 9]),
        ({"margin": 1.0}, [8, 9]),
        ({"margin": 1.5}, [9]),
        ({"relative_margin": 0.5}, [9]),  # at most 1.5
        ({"relative_margin": 0.1, "margin": 1.5}, [9]),
    ],
)
def test_a_negative_keeps_its_margin_to_the_lowest_positive(tmp_path, keys, expected):
    (found,) = of_run(beir(tmp_path), random_share=0.0, **keys)
    assert negatives(found["which number"]) == expected


def test_a_relative_margin_of_a_negative_score_is_of_its_magnitude(tmp_path):
    run = {"q1": {"d3": -1.0, "d7": -2.0, "d1": -2.1, "d2": -2.2, "d4": -3.0}}  # at most −2 − 0.1 · 2
    (found,) = of_run(beir(tmp_path, run=run), ranks=("1-5",), negatives=5, relative_margin=0.1)
    assert negatives(found["which number"]) == [2, 4]


def test_under_a_margin_a_query_without_a_scored_positive_has_no_negatives(tmp_path):
    folder = beir(tmp_path, run={"q1": {"d1": 2.0, "d2": 1.0}, "q2": {"far": 2.0, "d1": 1.0}})
    (found,) = of_run(folder, ranks=("1-2",), negatives=2, margin=0.0, output=tmp_path / "out")
    assert list(found) == ["what else"]
    (figures,) = statistics(folder, tmp_path / "out")
    assert figures["queries without a negative"] == 1
    assert figures["dropped in the ranks: within the margin"] == 2


def test_texts_of_positives_repeats_and_documents_without_text_are_never_negatives(tmp_path):
    corpus = CORPUS | {"d1": " Text  NUMBER 3 ", "d5": "text number 4", "d6": " "}
    (found,) = of_run(beir(tmp_path, corpus=corpus), output=tmp_path / "out")
    assert negatives(found["which number"]) == [2, 4, 8, 9]
    (figures,) = statistics(tmp_path, tmp_path / "out")
    dropped = {name.partition(": ")[2]: value for name, value in figures.items() if name.startswith("dropped")}
    assert dropped == {
        "positives": 3, "texts of positives": 1, "within the margin": 0, "repeated texts": 1, "excluded": 0,
        "with the id of the query": 0, "without text": 1
    }  # fmt: skip


def test_what_answers_the_same_question_under_another_id_is_not_a_negative(tmp_path):
    same = {"queries": QUERIES | {"q3": "Which  number"}, "qrels": QRELS | {("q3", "d2"): 1}}
    folder = beir(tmp_path, run=RUN | {"q3": {"d1": 1.0}}, **same)
    (found,) = of_run(folder, negatives=9)
    assert 2 not in negatives(found["which number"])


def test_documents_excluded_for_a_query_are_not_negatives(tmp_path):
    folder = beir(tmp_path)
    bright = {"id": "q1", "query": "which number", "gold_ids": ["d3"], "excluded_ids": ["d1", "d2"]}
    (tmp_path / "bright.jsonl").write_text(json.dumps(bright) + "\n")
    (found,) = of_run(folder, qrels=str(tmp_path / "bright.jsonl"), random_share=0.5, negatives=6)
    assert not {1, 2} & {int(text[-1]) for text, label in found["which number"] if text[-1].isdigit() and not label}


def test_judged_below_the_threshold_is_a_negative_and_counted(tmp_path):
    (found,) = of_run(beir(tmp_path), relevance_threshold=2.0, output=tmp_path / "out")
    assert list(found) == ["which number"]  # q2 has no positive any more
    assert 3 in negatives(found["which number"])
    (figures,) = statistics(tmp_path, tmp_path / "out")
    assert figures["negatives judged irrelevant"] == pytest.approx(2 / 8)


def test_a_random_share_comes_from_the_whole_corpus_and_is_not_a_positive(tmp_path):
    corpus = {f"d{number}": f"text number {number}" for number in range(1, 200)}
    folder = beir(tmp_path, corpus=corpus, queries={"q1": "which number"}, qrels={("q1", "d3"): 1}, run={"q1": RUN["q1"]})
    drawn = Counter()
    for seed in range(30):
        (found,) = of_run(folder, ranks=("1-4",), negatives=4, random_share=0.5, seed=seed, margin=None)
        numbers = negatives(found["which number"])
        assert numbers[:2] == [1, 2]
        assert len(set(numbers)) == 4
        assert 3 not in numbers
        drawn.update(numbers[2:])
    assert len(drawn) > 45  # of 60 draws from 196


def test_nothing_within_the_margin_is_drawn(tmp_path):
    folder = beir(tmp_path, corpus={name: text for name, text in CORPUS.items() if name.startswith("d")}, qrels={("q1", "d7"): 1})
    (found,) = of_run(folder, random_share=1.0, margin=0.0, run=str(only(folder, "q1")))
    assert sorted(negatives(found["which number"])) == [8, 9]


def only(folder, query):
    path = folder / "only.trec"
    path.write_text("".join(line for line in (folder / "run.trec").open() if line.startswith(f"{query} ")))
    return path


def test_the_ranks_of_each_epoch_make_files_of_their_own(tmp_path):
    found = of_run(beir(tmp_path), ranks=("8-9", "4-6", "1-2"), negatives=2, output=tmp_path / "out")
    assert [negatives(epoch["which number"]) for epoch in found] == [[8, 9], [4, 5], [1, 2]]
    assert statistics(tmp_path, tmp_path / "out")[0]["negative score, mean"] == pytest.approx(1.5)
    assert {path.name for path in (tmp_path / "out" / "data").iterdir()} == {
        *(f"{kind}-{epoch}.jsonl" for kind in ("groups", "rows", "positives") for epoch in (1, 2, 3)), "statistics.json"
    }  # fmt: skip


def test_what_is_drawn_within_the_ranks_depends_on_seed_epoch_and_query_alone(tmp_path):
    folder = beir(tmp_path)
    keys = {"ranks": ("1-9", "1-9"), "negatives": 3, "sampling": "random"}
    once, again, other = (of_run(folder, seed=seed, **keys) for seed in (1, 1, 2))
    assert once == again != other
    assert once[0] != once[1]
    alone = of_run(folder, seed=1, run=str(only(folder, "q1")), **keys)
    assert alone[0]["which number"] == once[0]["which number"]


def test_rows_and_positives_hold_what_the_groups_hold(tmp_path):
    (found,) = of_run(beir(tmp_path), output=tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "data" / "rows.jsonl").open()]
    assert [(row["query"], row["document"], row["label"]) for row in rows] == [
        (query, text, label) for query, hits in found.items() for text, label in hits
    ]
    assert all((row["answer"], row["think"]) == ("yes" if row["label"] else "no", "") for row in rows)
    for query, positives, others in map(json.loads, (tmp_path / "out" / "data" / "positives.jsonl").open()):
        assert positives == [text for text, label in found[query] if label]
        assert others == [text for text, label in found[query] if not label]


def test_every_reader_takes_the_files(tmp_path):
    of_run(beir(tmp_path), ranks=("1-3", "4-9"), negatives=2, output=tmp_path / "out")
    data = tmp_path / "out" / "data"
    for name in ("groups", "rows", "positives"):
        for epoch in (1, 2):
            path = data / f"{name}-{epoch}.jsonl"
            kind = kind_of_labelled(path, skip_bad=False)
            assert kind == {"groups": "grouped", "rows": "pointwise", "positives": "positives"}[name]
            assert list(read_labelled(path, kind, LabelBounds(), BadLines()))
        settings = FinetuneConfig(data=str(data / f"{name}-{{}}.jsonl"), batch_size=1, epochs=2.0)
        counts = Preparation(*check_loss(settings)).check()
        assert len(counts.parts) == 2
    for name in ("groups", "rows"):
        stage_a = StageAConfig(data=str(data / f"{name}-1.jsonl"), heldout_share=0.0)
        assert len(open_rows(stage_a, 1)) == sum(1 for _ in (data / "rows-1.jsonl").open())
        stage_b = StageBConfig(data=str(data / f"{name}-1.jsonl"), heldout_share=0.0)
        assert len(open_lists(stage_b, stage_b, stage_b.form, 1)) == 2


def test_groups_and_positives_are_mined_from_their_own_documents(tmp_path):
    rows = [["red apples", ["apples are red"], ["cars"]], ["blue sky", ["the sky is blue", "Apples are RED"], []]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = mined(tmp_path / "in.jsonl", output=tmp_path / "out", ranks=("1-3",), negatives=2, random_share=0.5)
    assert found["red apples"][0] == ("apples are red", 1)
    assert {text for text, label in found["red apples"] if not label} <= {"cars", "the sky is blue"}
    assert [text for text, label in found["blue sky"] if not label] == ["cars"]  # the only text that answers neither


def test_bm25_scores_positives_beyond_its_depth(tmp_path):
    corpus = {"d1": "number number", "d2": "number", "d3": "number and many other words than that one", "d4": "no such word"}
    folder = beir(tmp_path, corpus=corpus, qrels={("q1", "d3"): 1}, queries={"q1": "number"})
    with pytest.raises(UserError, match="ranks: 1-2 has no negative for any query"):
        mined(folder, ranks=("1-2",), negatives=2, margin=0.0)  # both score above d3, of rank 3
    (found,) = mined(folder, ranks=("1-2",), negatives=2)
    assert [label for _, label in found["number"]] == [0, 0, 1]


def _refused(folder, keys):
    values = {"data": str(folder), "output": str(folder / "out"), "ranks": ("1-3",), "negatives": 2, **keys}
    with pytest.raises(UserError) as error:
        run(MineConfig(**values), dry_run=False)
    assert "\n" not in str(error.value)
    assert not (folder / "out").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"ranks": ("1-100",)}, "ranks: go up to 100, but {} has only 11 documents; end them at 11"),
        ({"source": "run", "run": "{}/run.trec", "ranks": ("1-11",)}, "list of {}/run.trec has only 9 documents; end them at 9"),
        ({"source": "run", "run": "{}/other.trec"}, "{}/other.trec:1: the document \"nobody\" is not in {}/corpus.jsonl"),
        ({"source": "run", "run": "{}/third.trec"}, "{}/third.trec:1: the query \"q9\" is not in {}/queries.jsonl"),
        ({"source": "run", "run": "{}/nothing.trec"}, "no such file"),
        ({"qrels": "test"}, "choose qrels=train"),
        ({"qrels": "{}/unknown.tsv"}, "{}/unknown.tsv:2: the document \"d99\" is not in corpus.jsonl"),
        ({"qrels": "{}/unknown2.tsv"}, "{}/unknown2.tsv:1: the query \"q77\" is not in queries.jsonl"),
        ({"relevance_threshold": 3.0}, "no query has a relevant document (a label of at least 3); lower relevance_threshold="),
        ({"data": "{}/empty.jsonl"}, "no query has a relevant document"),
        ({"data": "{}/rows.jsonl"}, "has one row per document; give groups"),
        ({"data": "{}/nowhere"}, "no such file"),
        ({"source": "dense", "model": "{}/nothing"}, "there is no folder {}/nothing"),
        ({"reranker": "{}/nothing"}, "reranker: model: there is no folder {}/nothing"),
    ],
)  # fmt: skip
def test_bad_input_gives_a_one_sentence_error_and_nothing_is_written(tmp_path, keys, words):
    folder = beir(tmp_path)
    (folder / "other.trec").write_text("q1 Q0 nobody 1 1 x\nq1 Q0 d1 2 0.5 x\n")
    (folder / "third.trec").write_text("q9 Q0 d1 1 1 x\nq1 Q0 d1 2 0.5 x\n")
    (folder / "unknown.tsv").write_text("q1\td3\t1\nq1\td99\t1\n")
    (folder / "unknown2.tsv").write_text("q77\td3\t1\nq1\td3\t1\n")
    (folder / "empty.jsonl").write_text('["a query", [], ["a document", "another", "a third"]]\n')
    (folder / "rows.jsonl").write_text('{"query": "q", "document": "d", "label": 1}\n')
    placed = {name: value.format(folder) if isinstance(value, str) else value for name, value in keys.items()}
    assert words.format(folder, folder) in _refused(folder, placed)


def test_unknown_documents_are_dropped_and_counted_where_bad_lines_are_skipped(tmp_path, capsys):
    folder = beir(tmp_path, qrels=QRELS | {("q1", "d99"): 1, ("q5", "d1"): 1})
    mined(folder, ranks=("1-9",), negatives=2, skip_bad=True)
    said = capsys.readouterr().out
    assert "2 bad lines skipped" in said
    assert "11 documents, 2 queries with 3 positives" in said


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("ranks=5", "ranks: '5' is not a range of ranks; write from-to, such as 1-20"),
        ("ranks=9-3", "is not a range of ranks"),
        ("ranks=0-3", "is not a range of ranks"),
        ("ranks=1-5 negatives=6", "ranks: 1-5 has fewer than 6 documents; widen it, or lower negatives"),
        ("reranker=r0-tiny ranks=1-200", "ranks: 1-200 exceeds the 100 documents that are scored; use depth=200"),
        ("source=dense", "model: is missing, but source=dense needs it; give model="),
        ("run=x.trec", "run: belongs to source=run, but source is bm25; remove it"),
        ("margin=-1", "margin"),
        ("reranker=r0-tiny rollout.workers=2 ray.inline=true", "ray.inline: runs one engine; set rollout.workers=1"),
    ],
)  # fmt: skip
def test_keys_that_make_no_sense_are_refused(keys, words, capsys):
    assert main(["mine", "data=x", *keys.split()]) == 2
    assert words in capsys.readouterr().err


def test_half_of_the_negatives_may_come_from_a_range_that_holds_half():
    assert MineConfig(data="x", ranks=("1-3",), negatives=6, random_share=0.5).hard == 3


def test_a_run_that_is_over_is_not_done_again_and_other_settings_are_refused(tmp_path, capsys):
    folder = beir(tmp_path)
    of_run(folder, output=tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "data").iterdir()}
    of_run(folder, output=tmp_path / "out")
    assert "finished before" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "data").iterdir()}
    with pytest.raises(UserError, match="belongs to another configuration: negatives"):
        of_run(folder, output=tmp_path / "out", negatives=2)
    of_run(folder, output=tmp_path / "out", negatives=2, fresh=True)


def test_an_epoch_without_any_negative_leaves_no_files(tmp_path):
    folder = beir(tmp_path, qrels={("q1", "d3"): 1, ("q1", "d4"): 1}, run={"q1": {"d3": 3.0, "d4": 2.0, "d1": 1.0}})
    with pytest.raises(UserError, match="ranks: 1-2 has no negative for any query"):
        of_run(folder, ranks=("3-3", "1-2"), negatives=1, output=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} - {".lock"} == {"config.yaml", "inputs.json", "run.json"}


def test_a_dry_run_shows_missing_input_and_writes_nothing(tmp_path, capsys):
    keys = [f"data={tmp_path}/x", "source=run", f"run={tmp_path}/y", f"output={tmp_path}/out", "--dry-run"]
    assert main(["mine", *keys]) == 0
    said = capsys.readouterr().out
    assert f"data: there is no {tmp_path}/x" in said
    assert f"run: there is no {tmp_path}/y" in said
    assert not list(tmp_path.iterdir())


@needs_musique
def test_on_musique_no_negative_answers_and_a_second_run_gives_the_same_files(tmp_path):
    keys = {"qrels": "test", "ranks": ("50-100", "20-50", "1-20"), "random_share": 0.2}
    found = mined(MUSIQUE, output=tmp_path / "one", **keys)
    mined(MUSIQUE, output=tmp_path / "two", **keys)
    for path in (tmp_path / "one" / "data").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "data" / path.name).read_bytes()
    collection = open_collection(MineConfig(data=str(MUSIQUE), qrels="test"))
    assert len(collection.queries) == 100
    for query in collection.queries:
        relevant = {collection.documents.text(name) for name in query.positives}
        folded = {" ".join(text.casefold().split()) for text in relevant}
        for epoch in found:
            hits = epoch[query.text]
            assert {text for text, label in hits if label} == relevant
            assert not folded & {" ".join(text.casefold().split()) for text, label in hits if not label}
    hardness = [one["negative score, mean"] for one in statistics(MUSIQUE, tmp_path / "one")]
    assert hardness == sorted(hardness)


def test_equal_scores_of_a_reranker_keep_the_order_of_the_source():
    from r0.mining.ranked import by_score

    found = by_score({"b": 0.5, "z": 1.0, "a": 0.5, "c": 0.5, "y": 1.0}, ["c", "absent"])
    assert (found.documents, found.scores) == (["z", "y", "b", "a", "c"], [1.0, 1.0, 0.5, 0.5, 0.5])
    assert found.positives == {"c": 0.5}
