"""Labelled documents: formats, refused input and its messages, and the groups built from them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from r0.config import FinetuneConfig
from r0.data.groups import ExampleCounts, Shape, examples, with_thirds_shuffled
from r0.data.labelled import Labelled, LabelledKind
from r0.errors import UserError
from r0.supervised.finetune.data import Counts, Preparation, check_loss, prepared

GROUPED, POSITIVES = LabelledKind.GROUPED, LabelledKind.POSITIVES
TEXTS = tuple(f"document {number}" for number in range(11))


def write(path: Path, *lines: object) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def preparation(tmp_path: Path, *lines: object, **changes: object) -> Preparation:
    values = {"data": write(tmp_path / "train.jsonl", *lines), "batch_size": 1, **changes}
    return Preparation(*check_loss(FinetuneConfig(**values)))


def rows(tmp_path: Path, *lines: object, **changes: object) -> list[dict]:
    from datasets import Dataset

    preparation(tmp_path, *lines, **changes).write(tmp_path / "data")
    return Dataset.from_file(str(tmp_path / "data" / "train.arrow")).to_list()


def hits(*labels: float, query: str = "q") -> dict:
    return {"query": query, "hits": [{"content": TEXTS[place], "label": label} for place, label in enumerate(labels)]}


def pair(label: float, query: str = "q", key: str = "content") -> dict:
    return {"query": query, key: "d", "label": label}


def test_labels_of_rows_are_scaled_between_the_lowest_and_the_highest(tmp_path: Path) -> None:
    found = rows(tmp_path, pair(-1), pair(0, key="document"), pair(3), min_label=-1.0, max_label=3.0)
    assert found == [{"query": "q", "document": "d", "label": label} for label in (0.0, 0.25, 1.0)]


def test_positives_and_negatives_come_as_a_list_or_as_an_object(tmp_path: Path) -> None:
    lines = (
        ["q", ["a"], ["b", "c"]],
        {"query": "r", "positives": ["a", "b"], "negatives": ["c"]},
        {"query": "s", "pos": ["a"], "neg": ["b"]},
        {"query": "t", "positive": ["a"], "negative": ["b", "c"]},
    )
    found = rows(tmp_path, *lines, loss_type="pointwise_bce")
    expected = {("q", 1.0): 1, ("q", 0.0): 2, ("r", 1.0): 2, ("r", 0.0): 1, ("s", 1.0): 1, ("s", 0.0): 1}
    expected |= {("t", 1.0): 1, ("t", 0.0): 2}
    assert Counter((row["query"], row["label"]) for row in found) == expected


def test_longer_lists_are_split_into_groups_and_every_document_is_used(tmp_path: Path) -> None:
    one = Labelled("q", TEXTS, tuple(map(float, range(11))))
    left = ExampleCounts()
    made = list(examples([one], GROUPED, Shape.LIST, 4, 7, left))
    assert [len(example.documents) for example in made] == [4, 4, 4]
    assert {text for example in made for text in example.documents} == set(TEXTS)
    assert left.repeated == 1
    for example in made:
        assert [float(text.split()[1]) for text in example.documents] == list(example.labels)
        assert len(set(example.documents)) == 4
    assert made == list(examples([one], GROUPED, Shape.LIST, 4, 7, ExampleCounts()))
    assert made != list(examples([one], GROUPED, Shape.LIST, 4, 8, ExampleCounts()))


def test_short_groups_repeat_documents(tmp_path: Path) -> None:
    (made,) = examples([Labelled("q", TEXTS[:3], (2.0, 0.0, 1.0))], GROUPED, Shape.LIST, 8, 7, ExampleCounts())
    assert Counter(Counter(made.documents).values()) == {3: 2, 2: 1}


def test_groups_with_a_single_label_are_dropped_and_counted(tmp_path: Path) -> None:
    left = ExampleCounts()
    made = list(examples([Labelled("q", TEXTS[:8], (1.0, *[0.0] * 7))], GROUPED, Shape.LIST, 2, 7, left))
    assert (len(made), left.one_label) == (1, 3)
    assert "3 groups of longer lists dropped: all their documents have the same label" in left.summary()


def test_queries_without_a_positive_or_without_a_negative_are_dropped_and_counted_alike(tmp_path: Path) -> None:
    lines = [["q", ["a"], ["b"]], ["r", [], ["c"]], ["s", ["d"], []]]
    assert [row["query"] for row in rows(tmp_path, *lines)] == ["q"]
    (note,) = preparation(tmp_path, *lines).check().notes
    assert note.startswith("2 queries dropped: no two of their documents differ in label; ")
    assert [row["query"] for row in rows(tmp_path, hits(0, 1), hits(1, 1), hits(1))] == ["q"]
    found = rows(tmp_path, ["r", [], ["c"]], ["s", ["d"], []], loss_type="in_batch_negatives")
    assert found == [{"query": "s", "positive": "d"}]
    assert len(rows(tmp_path, *lines, loss_type="pointwise_bce")) == 4


def test_every_positive_gets_negatives_in_turn() -> None:
    one = Labelled("q", TEXTS[:6], (1.0, 1.0, 0.0, 0.0, 0.0, 0.0))
    first, second = examples([one], POSITIVES, Shape.TUPLE, 3, 7, ExampleCounts())
    assert (first.documents[0], second.documents[0]) == TEXTS[:2]
    assert {*first.documents[1:], *second.documents[1:]} == set(TEXTS[2:6])


def test_a_teachers_best_document_comes_first(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, hits(-1.5, 4.0, 0.5), loss_type="margin_mse", train_group_size=3)
    assert row["positive"] == TEXTS[1]
    assert row["label"] == [4.0, 0.5, -1.5]
    assert (row["negative_1"], row["negative_2"]) == (TEXTS[2], TEXTS[0])


def test_pairs_without_negatives_are_for_in_batch_negatives(tmp_path: Path) -> None:
    found = rows(tmp_path, ["q", ["a", "b"], []], ["r", ["c"], []], loss_type="in_batch_negatives")
    assert found == [{"query": q, "positive": p} for q, p in (("q", "a"), ("q", "b"), ("r", "c"))]


def test_the_thirds_of_a_share_of_the_long_documents_are_shuffled() -> None:
    text = "".join(f"{letter * 50} " for letter in "abc")
    changed = [with_thirds_shuffled(text, 0.5, key) for key in range(2000)]
    assert sum(one != text for one in changed) == pytest.approx(1000, abs=200)
    assert {"".join(sorted(one.replace(" ", ""))) for one in changed} == {"".join(sorted(text.replace(" ", "")))}
    assert len(set(changed)) > 4
    assert with_thirds_shuffled("short", 1.0, 3) == "short"
    assert with_thirds_shuffled(text, 0.0, 3) == text


def test_validation_is_gathered_by_query(tmp_path: Path) -> None:
    validation = write(tmp_path / "val.jsonl", pair(1, "v"), pair(0, "w"), pair(0, "v"))
    found = preparation(tmp_path, pair(1), pair(0), validation=validation).write(tmp_path / "data")
    assert found == Counts(2, 2, 3, parts=(2,))


@pytest.mark.parametrize(
    ("lines", "changes", "message"),
    [
        ([pair(1), pair(2)], {}, "train.jsonl:2: the label 2 is outside 0 to 1; declare the range"),
        ([hits(0, 5)], {"max_label": 3.0}, "train.jsonl:1: hits[1]: the label 5 is outside"),
        ([hits(1, 1), hits(1)], {}, "0 training examples (2 queries dropped: no two of their documents differ in label) are"),
        ([["q", [], ["a"]], ["r", ["a"], []]], {}, "(2 queries dropped: no two of their documents differ in label)"),
        ([["q", ["a"], []]], {}, "or use loss_type=in_batch_negatives, which needs no negatives"),
        ([["q", [], []]], {}, "train.jsonl:1: there is neither a positive nor a negative"),
        (
            [["q", ["a"], ["b"]], ["r", ["a"], []]],
            {"loss_type": "in_batch_negatives"},
            "train.jsonl:2: some queries have negatives",
        ),
        ([pair(1)], {"loss_type": "pairwise_ranknet"}, "pairwise_ranknet is not for pointwise data"),
        ([hits(0, 1)], {"loss_type": "pointwise_bce"}, "use one of pairwise_ranknet, listwise_ce"),
        ([hits(-1, 1)], {"loss_type": "listwise_lambda"}, "the label -1 is negative"),
        ([pair(1)], {"min_label": 2.0, "max_label": 1.0}, "min_label: 2 is not below max_label=1"),
        ([pair(1), pair(0)], {"batch_size": 3}, "2 training examples are fewer than one update of 3"),
        ([{"query": "q", "response": "a"}], {}, "train.jsonl:1: not labelled documents"),
        ([{"query": "q", "content": "", "label": 1}], {}, '"content" is empty'),
        ([["q", ["a"]]], {}, "not an object, nor a list of query, positives, negatives"),
    ],
)
def test_bad_data_gives_a_one_sentence_error_with_its_location(tmp_path: Path, lines: list, changes: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        preparation(tmp_path, *lines, **changes).check()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_a_validation_query_that_is_trained_on_is_refused(tmp_path: Path) -> None:
    validation = write(tmp_path / "val.jsonl", pair(1, "What  is X?"), pair(0, "other"))
    with pytest.raises(UserError, match=r"train\.jsonl:2: the query 'what is x\?' is a validation query too \(.*val\.jsonl:1\)"):
        preparation(tmp_path, pair(1, "y"), pair(0, "what is x?"), validation=validation).check()
    found = preparation(tmp_path, pair(1, "y"), pair(0, "what is x?"), validation=validation, skip_bad=True).check()
    assert found.examples == 1
    assert "1 bad lines skipped" in found.notes[0]


def test_validation_of_another_kind_is_refused(tmp_path: Path) -> None:
    validation = write(tmp_path / "val.jsonl", hits(0, 1))
    with pytest.raises(UserError, match="holds grouped data, and pointwise_bce needs pointwise, positives data"):
        preparation(tmp_path, pair(1), pair(0), validation=validation)


def test_an_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    made = preparation(tmp_path, pair(1), pair(0))
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"train\.jsonl:3"):
        made.write(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def of_epochs(tmp_path: Path, **changes: object) -> Preparation:
    write(tmp_path / "train-1.jsonl", hits(1, 0, query="a"), hits(1, 0, 0, query="b"))
    write(tmp_path / "train-2.jsonl", hits(0, 1, query="c"), hits(0, 1, query="d"), hits(0, 1, query="e"))
    values = {"data": str(tmp_path / "train-{}.jsonl"), "batch_size": 1, "epochs": 2.0, **changes}
    return Preparation(*check_loss(FinetuneConfig(**values)))


def test_files_of_epochs_lie_one_behind_the_other_and_an_epoch_is_as_long_as_the_shortest(tmp_path: Path) -> None:
    from datasets import Dataset

    counts = of_epochs(tmp_path, train_group_size=3).write(tmp_path / "data")
    assert (counts.examples, counts.parts) == (2, (2, 3))
    assert prepared(tmp_path / "data") == counts
    found = Dataset.from_file(str(tmp_path / "data" / "train.arrow")).to_list()
    assert [row["query"] for row in found] == ["a", "b", "c", "d", "e"]
    checked = of_epochs(tmp_path, train_group_size=3).check()
    assert "the epochs' files give 2, 3 examples, and an epoch uses 2 of its own" in checked.notes


def test_each_epoch_takes_its_own_file_and_the_last_one_from_then_on() -> None:
    from r0.supervised.finetune.rank import _sampler

    order = _sampler(2, (4, 3, 5))(list(range(12)), batch_size=1, drop_last=True, seed=1)
    seen = []
    for epoch in range(5):
        order.set_epoch(epoch)
        batches = list(order)
        assert len(batches) == len(order) == 2
        seen.append({place for batch in batches for place in batch})
    parts = [set(range(4)), set(range(4, 7)), set(range(7, 12))]
    assert all(places <= parts[min(epoch, 2)] for epoch, places in enumerate(seen))
    assert len({frozenset(places) for places in seen[2:]}) > 1  # another part of the last file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 1.0}, "epochs: 1 are fewer than the files of data; use epochs=2"),
        ({"data": "nowhere-{}.jsonl"}, "data: nowhere-1.jsonl does not exist; {} is replaced by the epoch"),
    ],
)
def test_files_of_epochs_that_are_not_there_or_never_seen_are_refused(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError) as error:
        of_epochs(tmp_path, **changes)
    assert words in str(error.value)
