"""What distill score reads, refuses, keeps and says, without a model."""

import gzip
import json

import pytest

from r0.config import RaySection, RolloutSection, ScoreConfig
from r0.config.load import load
from r0.data.scored import ScoredList
from r0.errors import UserError
from r0.launch import main
from r0.records import Form, Violation
from r0.rerank.job import Outcome
from r0.rerank.protocol import Question, Ranking, Reply
from r0.rerank.session import Session
from r0.teacher.labelled_lists import LabelledLists, key_of
from r0.teacher.score_figures import Figures, auc
from r0.teacher.score_store import ScoreStore
from tests.architectures import build

MTEB = [
    {"query": "how to sort", "positive": ["sorting a list"], "negative": ["a dog", "sets"]},
    {"query": "what is a set", "positive": ["sets", "a set"], "negative": ["a dog"], "id": 7},
]


def write(path, *rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


def lists(path, *rows, skip_bad=False):
    return LabelledLists(write(path, *rows), 0, 0, skip_bad)


@pytest.mark.parametrize("name", ["test.jsonl", "test.jsonl.gz"])
def test_mtebs_reranking_sets_are_read_positives_first(tmp_path, name):
    found = lists(tmp_path / name, *MTEB)
    assert [(one.query, one.documents, one.labels) for one in found] == [
        ("how to sort", ("sorting a list", "a dog", "sets"), (1.0, 0.0, 0.0)),
        ("what is a set", ("sets", "a set", "a dog"), (1.0, 1.0, 0.0)),
    ]
    assert [one.place.rpartition(":")[2] for one in found] == ["1", "2"]
    assert f"{name}: 2 queries, 6 documents\n" in found.summary()
    assert 'the key "id" is not read (rows: 1)' in found.summary()
    assert found.keys == {key_of(one) for one in found}


def test_groups_keep_their_labels_and_repeated_lists_are_scored_once(tmp_path):
    group = {"query": "q", "hits": [{"content": "a", "label": 2}, {"content": "b", "label": 0.5}, {"content": "c", "label": 0}]}
    found = lists(tmp_path / "groups.jsonl", group, group)
    assert [one.labels for one in found] == [(2.0, 0.5, 0.0)] * 2
    assert (len(found.keys), found.documents) == (1, 3)


def test_a_query_without_a_negative_is_dropped_and_counted(tmp_path):
    found = lists(tmp_path / "d.jsonl", MTEB[0], {"query": "alone", "positive": ["a"], "negative": []}, MTEB[1])
    assert [one.query for one in found] == ["how to sort", "what is a set"]
    assert "queries dropped: no two of their documents differ in label" in found.summary()
    with pytest.raises(UserError, match="no query with a positive and a negative document"):
        lists(tmp_path / "d.jsonl", {"query": "alone", "positive": ["a"], "negative": []})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"query": "q", "positive": [], "negative": []}, "there is neither a positive nor a negative"),
        ({"query": "q", "positive": [1], "negative": ["b"]}, '"positive" must be a list of non-blank strings'),
        ({"query": "q", "positive": ["a"], "negative": ["b", " "]}, '"negative" must be a list of non-blank strings'),
        ({"query": "", "positive": ["a"], "negative": ["b"]}, '"query" is empty'),
    ],
)
def test_a_bad_line_is_refused_or_skipped_counted_and_listed(tmp_path, row, reason):
    with pytest.raises(UserError, match=f"d.jsonl.gz:2: {reason}"):
        lists(tmp_path / "d.jsonl.gz", MTEB[0], row)
    found = lists(tmp_path / "d.jsonl.gz", MTEB[0], row, skip_bad=True)
    assert len(list(found)) == 1
    assert f"d.jsonl.gz:2: {reason}" in found.summary()


def test_rows_of_one_document_are_refused(tmp_path):
    with pytest.raises(UserError, match="contains pointwise data"):
        lists(tmp_path / "d.jsonl", {"query": "q", "document": "d", "label": 1})


def test_the_built_in_task_has_one_label_of_each_kind():
    found = list(LabelledLists("builtin", 20, 3, False))
    assert len(found) >= 18
    assert all(set(one.labels) == {0.0, 1.0} for one in found)
    assert found == list(LabelledLists("builtin", 20, 3, False))
    assert found != list(LabelledLists("builtin", 20, 4, False))


def outcome(*logits, refused=""):
    replies = tuple(
        (
            Question((i,), Form.YES_NO),
            Reply(((0,),), logit=one, failures=frozenset() if one is not None else frozenset({Violation.NO_ANSWER})),
        )
        for i, one in enumerate(logits)
    )
    return Outcome(0, Ranking.of_order(range(len(logits))), replies, 30, 3, 0.1, refused)


def test_scores_are_stored_by_the_hash_of_the_texts(tmp_path):
    path = tmp_path / "queries.jsonl"
    with ScoreStore(path, {5, 6}) as store:
        store.add(5, 3, outcome(1.5, None, -120.25))
        store.add(6, 2, outcome(refused="query 6: too long"))
    with path.open("a") as file:
        file.write('{"key": "0000')  # as a kill at a write leaves it
    with ScoreStore(path, {5, 6, 7}) as store:
        assert (len(store), 5 in store, 7 in store) == (2, True, False)
        assert store.row(5)["scores"] == [1.5, None, -120.25]
        assert store.row(5)["failures"] == {"no_answer": 1}
        assert (store.row(6)["scores"], store.row(6)["refused"]) == ([None, None], "query 6: too long")
    with pytest.raises(
        UserError, match=r"queries.jsonl:2: the data does not contain this query.*; give the data that was scored, or start"
    ):
        ScoreStore(path, {5})
    path.write_text('{"key": "5"}\n')
    with pytest.raises(UserError, match=r"queries.jsonl:1: is damaged"):
        ScoreStore(path, {5})


def test_the_figures_are_those_computed_by_hand():
    figures = Figures()
    row = {"prompt_tokens": 90, "new_tokens": 3, "failures": {}, "refused": ""}
    figures.add(ScoredList("q", ("a", "b", "c"), (1.0, 0.0, 0.0), (2.0, 3.0, -1.0)), row)  # the relevant one is second
    figures.add(ScoredList("r", ("a", "b", "c"), (0.0, 1.0, 0.0), (0.5, None, 0.5)), {**row, "failures": {"no_answer": 1}})
    values = figures.values(Session(2, 6, prompt_tokens=560, new_tokens=40, seconds=3.0))
    # Of r the one without a score comes last.
    assert values["ndcg@10"] == pytest.approx((0.6309297535714575 + 0.5) / 2, abs=1e-9)
    assert values["auc"] == 0.5  # of q; r has no pair of scores with unlike labels
    assert values["mean_score_relevant"] == 2.0
    assert values["mean_score_others"] == pytest.approx((3.0 - 1.0 + 0.5 + 0.5) / 4)
    assert (values["pairs"], values["unscored"]) == (6, 1)
    assert (values["pairs_a_second"], values["tokens_a_second"]) == (2.0, 200.0)
    shown = figures.report(Session(2, 6, prompt_tokens=560, new_tokens=40, seconds=3.0))
    lines = dict(line.strip().split("  ", 1) for line in shown.splitlines())
    assert lines["without a score (null)"].strip() == "1  (16.7%)"
    assert lines["no_answer"].strip() == "1"


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([1, 0], [2, 1], 1.0),
        ([1, 0], [1, 1], 0.5),
        ([1, 0, 1, 0], [3, 2, 1, 0], 0.75),
        ([2, 1, 0], [3, 1, 2], 2 / 3),
        ([1, 1], [1, 2], None),
        ([], [], None),
    ],
)
def test_auc_is_the_share_of_pairs_in_the_right_order(labels, scores, expected):
    assert auc(labels, scores) == expected


def test_the_keys_are_those_of_a_pointwise_reranker():
    config = load(
        ScoreConfig, None, ["model_preset=qwen3-reranker-0.6b", "data=x", "rollout.workers=3", "thinking=false", "seed=7"]
    )
    ranking = config.ranking(30)
    assert (ranking.method, ranking.depth, ranking.thinking, ranking.seed) == ("pointwise", 30, False, 7)
    assert ranking.query_format == config.query_format
    assert config.query_format.startswith("<|im_start|>system")
    assert (ranking.rollout, ranking.max_prompt_tokens) == (config.rollout, 8192)
    with pytest.raises(ValueError, match=r"rollout.workers=1"):
        ScoreConfig(rollout=RolloutSection(workers=2), ray=RaySection(inline=True))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data=nowhere.jsonl.gz"], "nowhere.jsonl.gz: no such file"),
        (["max_prompt_tokens=2048"], "use max_prompt_tokens=2047"),
        (["thinking=true"], "scores without a thought"),
        (["document_format=D"], "document_format: 'D' must contain {} exactly once"),
        (["model=/nowhere/model"], "there is no folder /nowhere/model"),
        (["data_type=auto"], "data_type"),
    ],
)
def test_bad_input_gives_a_one_sentence_error_before_a_model_loads_or_anything_is_written(tmp_path, capsys, settings, words):
    model = build("qwen3-reranker-0.6b", tmp_path / "model")
    common = [f"model={model}", "query_format=Q {}", "builtin_rows=3", f"output={tmp_path / 'out'}"]
    assert main(["distill", "score", *common, *settings]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


def test_a_dry_run_shows_the_output_and_missing_input(tmp_path, capsys):
    common = ["model=r0-tiny", f"output={tmp_path / 'out'}", "rollout.workers=3", "--dry-run"]
    assert main(["distill", "score", *common]) == 0
    shown = capsys.readouterr().out
    assert "3 × rollout: 1 CPU" in shown
    assert "nothing is missing" in shown
    assert main(["distill", "score", *common, "data=/nowhere.jsonl"]) == 0
    assert "data: there is no /nowhere.jsonl" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
