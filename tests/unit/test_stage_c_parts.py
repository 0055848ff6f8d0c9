"""Stage C without Ray: keys, labels, stored completions, lists as tensors, evaluation, and refused input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from r0.config import SftConfig, StageCConfig
from r0.config.load import load
from r0.errors import UserError
from r0.records import Finish, Form, ListLabel, ListwiseTask, Sampled
from r0.runs.calibration import bins_of, calibration_error
from r0.storage.models import model_folder
from r0.supervised.sft import run as sft
from r0.supervised.stage_c import run as stage_c
from r0.supervised.stage_c.completions import CompletionFile, StoredCompletion, kl_document
from r0.supervised.stage_c.examples import ListCollate, OpenLists
from r0.supervised.stage_c.list_prompter import ListPrompter
from r0.supervised.stage_c.lists import label_range, scaled, stage_c_source
from r0.supervised.stage_c.measure import EvaluationResult, measure
from r0.supervised.training.job import Job
from tests.architectures import build

TASK = ListwiseTask(3, "which?", ("first text", "second text", "third text"), ListLabel((2.0, 0.0, 1.0), (1, 0, 2)), Form.SCORES)


def config(**changes: object) -> StageCConfig:
    values: dict = {
        "model": "r0-tiny", "builtin_rows": 60, "candidates": 4, "batch_size": 4, "max_prompt_tokens": 300,
        "max_new_tokens": 60, "ray": {"inline": True},
    }  # fmt: skip
    return StageCConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def list_prompter() -> ListPrompter:
    return ListPrompter(config(), model_folder("r0-tiny"))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["loss.bce_weight=0", "loss.ranknet_weight=0"], "all loss weights are 0"),
        (["loss.hinge_weight=1"], "unknown key hinge_weight"),
        (["ray.inline=true", "ranks=2"], "set ranks=1"),
        (["label_sampling=balanced"], "use label_sampling=natural"),
        (["passage_tokens=5"], "unknown key passage_tokens"),
        (["kl_coef=-1"], "kl_coef"),
    ],
)
def test_keys_that_make_no_sense_are_refused(overrides, reason):
    with pytest.raises(UserError, match=reason):
        load(StageCConfig, None, overrides)


def test_labels_become_0_to_1_between_the_declared_ones():
    assert label_range(config()) == (0.0, 2.0)
    assert scaled(TASK, 0.0, 2.0) == (1.0, 0.0, 0.5)
    assert label_range(config(data="rows.jsonl", min_label=1.0, max_label=5.0)) == (1.0, 5.0)
    assert label_range(config(data="rows.jsonl")) == (0.0, 1.0)
    assert scaled(TASK, 1.0, 2.0) == (1.0, 0.0, 0.0)  # without a judgement: 0, below the lowest
    with pytest.raises(UserError, match="min_label: 3 is not below max_label=2"):
        label_range(config(min_label=3.0))


def rows(path: Path, *lists: list[float], query: str = "query") -> str:
    lines = [
        {"query": f"{query} {i}", "hits": [{"content": f"text {i} {j}", "label": label} for j, label in enumerate(labels)]}
        for i, labels in enumerate(lists)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_lists_with_one_label_are_dropped_and_counted(tmp_path):
    data = rows(tmp_path / "rows.jsonl", [1, 0, 0], [1, 1], [1, 0], [0, 0], [1], [0, 1, 1])
    source = stage_c_source(config(data=data, heldout_share=0.0))
    assert len(source) == 3
    assert "1 lists with only one label dropped" in source.summary()
    assert all(len(set(source.task(row).label.grades)) > 1 for row in range(3))


def test_a_deep_list_gives_only_windows_with_unlike_labels(tmp_path):
    data = rows(tmp_path / "rows.jsonl", [1, 1, 1, 1, 1, 0], [1, 1, 1, 1])
    source = stage_c_source(config(data=data, heldout_share=0.0, candidates=2, lists_per_query=9))
    assert [sorted(source.task(row).label.grades) for row in range(len(source))] == [[0.0, 1.0]]
    assert "1 lists with only one label" in source.summary()


@pytest.mark.parametrize(
    ("lists", "keys", "reason"),
    [
        ([[1, 0, 7]], {}, r"rows.jsonl:1: .*label 7 is outside 0 to 1.*min_label= and max_label="),
        ([[1, 1], [1, 1, 1]], {}, "all lists of .* dropped: .*only one label"),
        ([[1], [1]], {}, "all lists of .* dropped: .*fewer than 2 documents"),
        ([[1, 0]] * 3, {"batch_size": 8}, "3 training lists, fewer than 8; set batch_size to at most 3"),
        ([[1, 0]] * 8, {"ranks": 3, "ray": {"inline": False}}, "cannot be shared by ranks=3"),
        ([[1, 0]] * 8, {"max_prompt_tokens": 5000}, "more than the 4096 positions .* lower max_prompt_tokens to at most"),
        ([[1, 0]] * 8, {"max_prompt_tokens": 8}, "template and system prompt alone take"),
        ([[1, 0]] * 8, {"model": "nowhere"}, "there is no folder nowhere"),
    ],
)
def test_bad_input_gives_a_one_sentence_error_and_nothing_is_written(tmp_path, lists, keys, reason):
    data = rows(tmp_path / "rows.jsonl", *lists)
    with pytest.raises(UserError, match=reason):
        stage_c.run(config(**{"data": data, "heldout_share": 0.0, "output": str(tmp_path / "run"), **keys}))
    assert not (tmp_path / "run").exists()


def test_a_model_that_writes_nothing_is_refused(tmp_path):
    build("bert-base-uncased", tmp_path / "bert", head="score")
    keys = {"model": str(tmp_path / "bert"), "output": str(tmp_path / "run")}
    for run in (lambda: stage_c.run(config(**keys)), lambda: sft.run(SftConfig(**keys))):
        with pytest.raises(UserError, match="bert is a BertForSequenceClassification, which generates no text; use a causal"):
            run()
    assert not (tmp_path / "run").exists()


def test_judgements_outside_the_range_are_refused(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"_id": "d{i}", "title": "", "text": "text {i}"}}\n' for i in range(3)))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "what?"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td0\t3\nq1\td1\t1\n")
    (tmp_path / "run.trec").write_text("".join(f"q1 Q0 d{i} {i + 1} {9 - i} bm25\n" for i in range(3)))
    beir = {"data": str(tmp_path), "run": str(tmp_path / "run.trec"), "heldout_share": 0.0}
    with pytest.raises(UserError, match=r"has the label 3, outside 0 to 1; declare .* max_label="):
        stage_c_source(config(**beir))
    assert len(stage_c_source(config(**beir, max_label=3.0))) == 1


def test_stored_completions_survive_a_broken_last_line(tmp_path):
    path = tmp_path / "thoughts.jsonl"
    stored = [StoredCompletion((5, 6), (-0.5, -1e-7)), None]
    with CompletionFile(path) as file:
        file.add(7, stored)
        file.add(2, [None, stored[0]])
        file.sync()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"list": 9, "ids": [[1')
    with CompletionFile(path) as file:
        assert (7 in file, 9 in file, len(file)) == (True, False, 2)
        assert file.completions(7) == stored
        assert file.completions(2) == [None, stored[0]]
    assert path.read_bytes() == whole
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(UserError, match=r"thoughts.jsonl:1: is damaged; delete the line"):
        CompletionFile(path)


def stored_completions(list_prompter: ListPrompter, *texts: str) -> list[StoredCompletion]:
    found = [list_prompter.prompter.completion_ids(text) for text in texts]
    return [StoredCompletion(ids, tuple(-0.1 * (i + 1) for i in range(len(ids)))) for ids in found]


GOOD, BAD = "<think>river: in the tax.</think><answer>yes</answer>", "<think>river: in the tax."


def open_lists(tmp_path: Path, settings: StageCConfig, stored: list[StoredCompletion | None]) -> OpenLists:
    with CompletionFile(tmp_path / "thoughts.jsonl") as file:
        file.add(TASK.task_id, stored)
        file.sync()
    return OpenLists(Job(settings, str(model_folder("r0-tiny")), str(tmp_path), 1, 1, stage_c.RANK))


def test_scores_follow_the_stored_thought_which_is_closed_if_it_is_open(tmp_path, list_prompter):
    settings = config(thinking=True)
    lists = open_lists(tmp_path, settings, stored_completions(list_prompter, GOOD, BAD, GOOD.replace("yes", "no")))
    one = lists.example(TASK)
    assert one.labels == tuple(scaled(TASK, *label_range(settings)))
    for name, place in zip(("first", "second", "third"), one.places, strict=True):
        text = list_prompter.tokenizer.decode(place.context_ids)
        assert text.endswith(f"Document: {name} text<|im_end|>\n<|im_start|>assistant\n<think>river: in the tax.</think><answer>")
    assert one.completion is None
    batch = ListCollate(lists.pad_id, logits_to_keep=True)([one, one])
    assert batch["sizes"] == [3, 3]
    assert batch["scored"]["logits_to_keep"] == 1
    assert batch["targets"].tolist() == pytest.approx([*one.labels, *one.labels])
    assert [list_prompter.tokenizer.decode(ids) for ids in batch["words"][0]] == ["yes", "no"]


def test_the_kl_is_of_one_completion_a_list_and_leaves_the_word_free(tmp_path, list_prompter):
    settings = config(kl_coef=0.1)
    place = kl_document(settings, TASK.task_id, 3)
    stored: list[StoredCompletion | None] = [None] * 3
    (stored[place],) = stored_completions(list_prompter, GOOD)
    lists = open_lists(tmp_path, settings, stored)
    one = lists.example(TASK)
    assert len(one.places) == 3  # thinking is switched off: every document has a place
    assert list_prompter.tokenizer.decode(one.places[0].context_ids).endswith("assistant\n<think></think><answer>")
    collate = ListCollate(lists.pad_id, logits_to_keep=True)
    batch = collate([one, one])
    weights, ids = batch["weights"], batch["sampled_ids"]
    assert torch.equal(batch["answer_token"], (weights == 0).float())
    assert list_prompter.tokenizer.decode(batch["answer_words"][0]) == "yesno"
    assert weights.shape == ids.shape == batch["start_logprobs"].shape == (2, len(stored[place].token_ids))
    assert weights[0].sum().item() == pytest.approx(1.0)
    assert list_prompter.tokenizer.decode(ids[0][weights[0] == 0]) == "yes"
    assert tuple(ids[0].tolist()) == stored[place].token_ids
    assert batch["start_logprobs"][0].tolist() == pytest.approx(stored[place].logprobs)


@pytest.mark.parametrize("labels", [[1.0, 0.0, 1.0, 0.0], [0.5, 0.5, 0.25, 1.0]])
def test_the_calibration_error_is_its_definition(labels):
    probabilities = [0.05, 0.05, 0.95, 1.0]
    bins = {0: (0, 1), 9: (2, 3)}
    expected = sum(
        len(found) / 4 * abs(sum(probabilities[i] for i in found) / len(found) - sum(labels[i] for i in found) / len(found))
        for found in bins.values()
    )
    assert calibration_error(bins_of(np.array(probabilities), np.array(labels))) == pytest.approx(expected)
    assert calibration_error(bins_of(np.array([0.0, 1.0]), np.array([0.0, 1.0]))) == 0.0


class Engines:
    """Replies fixed per document: a completion, and the score at its answer position."""

    def __init__(self, list_prompter: ListPrompter, replies: dict[str, tuple[str, float]]):
        self._list_prompter, self._replies, self.asked = list_prompter, replies, 0

    def sample(self, requests, temperature, max_new_tokens, greedy=False):
        assert greedy
        return [self._one(request) for request in requests]

    def _one(self, request) -> Sampled:
        text = self._list_prompter.tokenizer.decode(request.prompt_ids)
        completion, score = next(reply for name, reply in self._replies.items() if f"Document: {name}" in text)
        if not request.allowed_ids:
            return Sampled(self._list_prompter.prompter.completion_ids(completion), (), Finish.STOP, 0)
        self.asked += 1
        yes = -math.log1p(math.exp(-score))
        return Sampled((request.allowed_ids[0],), (yes,), Finish.STOP, 0, (yes, yes - score))


@pytest.mark.parametrize("thinking", [False, True])
def test_lists_are_measured_as_rerank_would_order_them(list_prompter, thinking):
    replies = {"first text": (GOOD, 0.5), "second text": (BAD, 9.0), "third text": (GOOD, 2.0)}
    engines = Engines(list_prompter, replies)
    found = measure(config(thinking=thinking), [TASK], list_prompter, engines)
    gains = [1.0, 1 / math.log2(3), 0.5]
    ideal = 2 * gains[0] + gains[1]
    # Given: second, first, third. The second has no answer to be read; its score puts it first all the same.
    by_score = 0 * gains[0] + 1 * gains[1] + 2 * gains[2]
    given = 0 * gains[0] + 2 * gains[1] + 1 * gains[2]
    assert found.values["heldout/ndcg@10"] == pytest.approx(by_score / ideal) == pytest.approx(found.ndcg[0])
    assert found.values["heldout/ndcg@10_given"] == pytest.approx(given / ideal)
    assert found.values["heldout/format_rate"] == pytest.approx(2 / 3)
    assert engines.asked == 3
    assert found.calibration is not None
    counted = dict(zip(found.calibration.labels, found.calibration.confusion, strict=True))
    assert found.calibration.predictions == ("yes", "no")
    assert [sum(column) for column in zip(*counted.values(), strict=True)] == [3, 0]
    assert calibration_error(found.calibration.bins) == found.values["heldout/ece"]


def test_equal_scores_keep_the_first_stage_order_and_measures_are_stored(list_prompter, tmp_path):
    same = dict.fromkeys(TASK.documents, (GOOD, 0.0))
    found = measure(config(), [TASK], list_prompter, Engines(list_prompter, same))
    assert found.values["heldout/ndcg@10"] == found.values["heldout/ndcg@10_given"]
    assert found.values["heldout/ece"] == pytest.approx(0.0)  # P(yes) is 0.5, as the mean label
    found.write(tmp_path / "before.json")
    assert EvaluationResult.read(tmp_path / "before.json") == found
    assert EvaluationResult.read(tmp_path / "after.json") is None
    (tmp_path / "before.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        EvaluationResult.read(tmp_path / "before.json")


def test_the_pair_format_writes_the_prompt_that_is_learned_from(list_prompter):
    place = list_prompter.places.without_thought(list_prompter.prompts(TASK)[0])
    text = (
        list_prompter.pair.format.before
        + TASK.query
        + list_prompter.pair.format.between
        + TASK.documents[0]
        + list_prompter.pair.format.behind
    )
    assert tuple(list_prompter.tokenizer.encode(text, add_special_tokens=False)) == place.context_ids
    assert (list_prompter.pair.yes, list_prompter.pair.no) == (place.yes_id, place.no_id)


@pytest.mark.parametrize(
    ("kl_coef", "now", "said"),
    [
        (0.0, 0.59, "kl_coef=0.1 keeps"),
        (0.0, 0.95, ""),
        (0.1, 0.59, "a kl_coef above 0.1 or a lower learning_rate"),
        (0.1, 0.95, ""),
    ],
)
def test_lost_answers_are_said_with_the_remedy(caplog, kl_coef, now, said):
    before, after = (EvaluationResult({"heldout/format_rate": rate}) for rate in (1.0, now))
    stage_c.warn_of_lost_answers(config(kl_coef=kl_coef), before, after)
    assert ("fell from 1.000 to 0.590" in caplog.text) is bool(said)
    assert said in caplog.text
