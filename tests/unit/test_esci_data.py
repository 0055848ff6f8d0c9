"""ESCI data: valid parquet files, refused ones and their messages, the split by query, the order of training."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r0.config import ConvertConfig, EsciConfig, EsciEvalConfig, EvaluateConfig
from r0.data.candidates import open_candidates
from r0.data.esci import EsciRow, Selection, read_esci
from r0.data.esci_convert import convert_esci
from r0.data.jsonl import BadLines
from r0.data.labelled import LabelBounds
from r0.data.labelled_rows import kind_of_labelled, read_labelled
from r0.errors import UserError
from r0.evaluation.report import evaluate
from r0.supervised.esci.data import HELDOUT, TRAIN, Preparation, Rows, ShuffledRows, prepared
from r0.supervised.esci.prompt import EsciPrompter
from r0.supervised.esci.prompt_file import PromptSettings
from r0.supervised.esci.run import run
from tests.esci_rows import esci_file, esci_rows
from tests.helpers import tiny_model, tiny_tokenizer

GOOD = {"query": "shoe", "item_text": "a red shoe", "esci_label": "E"}


def read(path: str, skip: bool = False) -> tuple[list[EsciRow], BadLines]:
    bad = BadLines(skip)
    return list(read_esci(Path(path), bad)), bad


def refusal(path: str) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_letters_and_words_in_any_case_are_classes(tmp_path: Path) -> None:
    labels = ["E", "s", "Complement", "IRRELEVANT", " exact ", "substitute", "C", "i"]
    rows, _ = read(esci_file(tmp_path / "x.parquet", [GOOD | {"esci_label": label, "more": 1} for label in labels]))
    assert [row.label for row in rows] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert rows[2] == EsciRow(3, "shoe", "a red shoe", 2)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_every_arrow_type_of_text_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {name: pa.array([value] * 3).cast(kind) for name, value in GOOD.items()}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert len(read(str(tmp_path / "x.parquet"))[0]) == 3


def test_many_row_groups_are_read_in_order(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([GOOD | {"item_text": f"item {number}"} for number in range(5000)])
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=700)
    rows, _ = read(str(tmp_path / "x.parquet"))
    assert [(row.number, row.item) for row in rows] == [(number + 1, f"item {number}") for number in range(5000)]


def test_a_missing_column_is_named_with_what_there_is(tmp_path: Path) -> None:
    said = refusal(esci_file(tmp_path / "x.parquet", [{"query": "a", "title": "b", "esci_label": "E"}]))
    assert "the column item_text is missing (it has query, title, esci_label); give a table with the columns query" in said


def test_a_column_of_another_type_is_named_with_its_type(tmp_path: Path) -> None:
    said = refusal(esci_file(tmp_path / "x.parquet", [GOOD | {"esci_label": 3}]))
    assert "the column esci_label has type int64 and must hold text" in said


def test_a_file_that_is_not_parquet_gives_a_one_sentence_error(tmp_path: Path) -> None:
    whole = Path(esci_file(tmp_path / "y.parquet", esci_rows(500))).read_bytes()
    (tmp_path / "y.parquet").write_bytes(whole[: len(whole) // 2])  # a copy that was interrupted
    assert "is not a readable parquet file" in refusal(str(tmp_path / "y.parquet"))
    (tmp_path / "z.parquet").write_bytes(b"PAR1" + bytes(50) + whole[54:])  # damaged inside
    assert "is not a readable parquet file" in refusal(str(tmp_path / "z.parquet"))
    assert "no such file" in refusal(str(tmp_path / "none.parquet"))
    assert "is a directory" in refusal(str(tmp_path))
    assert "contains no rows" in refusal(_empty(tmp_path / "e.parquet"))


EXAMPLES = [
    {"query": "shoe", "query_id": query, "product_id": product, "product_locale": locale, "esci_label": label, "split": split}
    | {"small_version": small, "large_version": 1}
    for query, product, locale, label, split, small in (
        (1, "B1", "us", "E", "train", 1), (1, "B2", "us", "S", "train", 0), (1, "B3", "us", "I", "test", 1),
        (2, "B1", "es", "C", "train", 1),
    )
]  # fmt: skip
PRODUCTS = [
    {"product_id": "B1", "product_locale": "us", "product_title": "Shoe", "product_brand": "Acme", "product_color": None}
    | {"product_bullet_point": "red\nlight", "product_description": " <b>good</b> "},
    {"product_id": "B2", "product_locale": "us", "product_title": "Boot"},
    {"product_id": "B3", "product_locale": "us", "product_title": "Sock"},
    {"product_id": "B1", "product_locale": "es", "product_title": "Zapato"},
]


def amazon(tmp_path: Path, examples: list[dict] = EXAMPLES, products: list[dict] = PRODUCTS, kind: str = "parquet") -> list[Path]:
    """The two tables as Amazon publishes them."""
    import csv

    found = []
    for name, rows in (("examples", examples), ("products", products)):
        found.append(tmp_path / f"{name}.{kind}")
        names = list(rows[0])
        if kind == "parquet":
            pq.write_table(pa.table({key: [row.get(key) for row in rows] for key in names}), found[-1])
            continue
        with found[-1].open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    return found


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_amazons_examples_are_joined_with_its_products(tmp_path: Path, kind: str) -> None:
    examples, products = amazon(tmp_path, kind=kind)
    rows = list(read_esci(examples, BadLines(), selection=Selection(str(products))))
    assert [(row.query, row.label, row.query_id, row.product_id) for row in rows] == [
        ("shoe", 0, "1", "B1"), ("shoe", 1, "1", "B2"), ("shoe", 3, "1", "B3"), ("shoe", 2, "2", "B1")
    ]  # fmt: skip
    assert [row.item for row in rows] == ["Shoe\nAcme\nred\nlight\n<b>good</b>", "Boot", "Sock", "Zapato"]


@pytest.mark.parametrize(
    ("keys", "items"),
    [
        ({"locale": "us"}, ["Shoe", "Boot", "Sock"]),
        ({"locale": "us", "split": "train"}, ["Shoe", "Boot"]),
        ({"split": "train", "version": "small"}, ["Shoe", "Zapato"]),
        ({"version": "large", "split": "test"}, ["Sock"]),
    ],
)
def test_rows_are_selected_by_locale_split_and_version(tmp_path: Path, keys: dict, items: list[str]) -> None:
    examples, products = amazon(tmp_path)
    bad = BadLines()
    rows = list(read_esci(examples, bad, selection=Selection(str(products), **keys)))
    assert [row.item.partition("\n")[0] for row in rows] == items
    assert f"rows of another locale, split or version are left out (rows: {4 - len(items)})" in bad.summary()


def test_examples_that_hold_their_products_need_no_other_table(tmp_path: Path) -> None:
    merged = [example | product for example, product in zip(EXAMPLES, PRODUCTS, strict=True)]
    examples, _ = amazon(tmp_path, merged)
    assert [row.item for row in read_esci(examples, BadLines())][1:] == ["Boot", "Sock", "Zapato"]


@pytest.mark.parametrize(
    ("examples", "products", "keys", "reason"),
    [
        (
            EXAMPLES,
            PRODUCTS,
            {"products": None},
            r"products: .*examples\.parquet has no texts of items, only ids of products",
        ),
        (EXAMPLES, PRODUCTS[1:], {}, r'examples\.parquet:1: the product "B1" of the locale "us" is not in .*products\.parquet'),
        (
            EXAMPLES,
            [{"product_id": "B1"}],
            {},
            r"products\.parquet: the column product_locale is missing; give Amazon's",
        ),
        (
            EXAMPLES,
            PRODUCTS,
            {"locale": "jp"},
            r"none of its 4 rows is of locale=jp, split=all and version=all; select",
        ),
        ([GOOD], PRODUCTS, {"locale": "us"}, r"locale: .* has no column product_locale .*; remove locale"),
        ([GOOD], PRODUCTS, {"version": "small"}, r"version: .* has no column small_version .*; remove version"),
        ([{"query": "q", "esci_label": "E"}], PRODUCTS, {}, r"the column item_text is missing"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, examples: list, products: list, keys: dict, reason: str) -> None:
    tables = amazon(tmp_path, examples, products)
    with pytest.raises(UserError, match=reason) as caught:
        list(read_esci(tables[0], BadLines(), selection=Selection(**{"products": str(tables[1]), **keys})))
    assert "\n" not in str(caught.value)


def test_examples_become_groups_or_a_beir_folder_with_the_chosen_gains(tmp_path: Path) -> None:
    examples, products = map(str, amazon(tmp_path))
    keys = {"input": examples, "products": products, "locale": "us"}
    said = convert_esci(ConvertConfig(output=str(tmp_path / "new" / "groups.jsonl"), gains="official", **keys))
    assert "groups.jsonl: 1 queries with 3 items" in said
    kind = kind_of_labelled(tmp_path / "new" / "groups.jsonl", False)
    (one,) = read_labelled(tmp_path / "new" / "groups.jsonl", kind, LabelBounds(), BadLines())
    assert (one.documents[1:], one.labels) == (("Boot", "Sock"), (1.0, 0.1, 0.0))
    said = convert_esci(ConvertConfig(output=str(tmp_path / "folder"), gains="official", **keys))
    assert "folder: 1 queries, 3 items, 3 judgements" in said
    (tmp_path / "run.trec").write_text("1 Q0 B2 1 2 t\n1 Q0 B1 2 1 t\n")
    lists = open_candidates(tmp_path / "folder", tmp_path / "run.trec")
    assert (lists.query(0), lists.document(0, 0)) == ("shoe", "Boot")
    report = evaluate(
        EvaluateConfig(qrels=(str(tmp_path / "folder/qrels/test.tsv"),), runs=(str(tmp_path / "run.trec"),), test="t")
    )
    dcg, ideal = 0.1 + 1 / math.log2(3), 1 + 0.1 / math.log2(3)
    assert report.datasets[0].runs[0].means["nDCG@10"] == pytest.approx(dcg / ideal)
    with pytest.raises(UserError, match="folder already exists"):
        convert_esci(ConvertConfig(output=str(tmp_path / "folder"), **keys))
    with pytest.raises(UserError, match=r"examples\.parquet:4: the product B1 has another text in a line above; select"):
        convert_esci(ConvertConfig(output=str(tmp_path / "all"), **{**keys, "locale": None}))
    assert not (tmp_path / "all").exists()


def test_training_reads_the_split_to_train_on_and_evaluation_that_to_test_on(tmp_path: Path) -> None:
    assert (EsciConfig(data="x").split, EsciEvalConfig(data="x", model="m").split) == ("train", "test")


def _empty(path: Path) -> str:
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in GOOD}), path)
    return str(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"esci_label": "X"}, 'esci_label is "X"; the classes are E, S, C and I'),
        ({"esci_label": None}, "esci_label is missing"),
        ({"query": " "}, "query is empty"),
        ({"item_text": None}, "item_text is missing"),
    ],
)
def test_a_bad_row_is_refused_with_its_number_or_skipped_and_counted(tmp_path: Path, change: dict, reason: str) -> None:
    path = esci_file(tmp_path / "x.parquet", [GOOD, GOOD, GOOD | change, GOOD])
    said = refusal(path)
    assert f"x.parquet:3: {reason}" in said
    assert "skip_bad=true" in said
    rows, bad = read(path, skip=True)
    assert ([row.number for row in rows], bad.count) == ([1, 2, 4], 1)
    assert reason in bad.summary()


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    item = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.string())
    table = pa.table({"query": ["a", "a"], "item_text": item, "esci_label": ["E", "S"]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert "x.parquet:2: item_text is missing or not UTF-8" in refusal(str(tmp_path / "x.parquet"))


def preparation(tmp_path: Path, rows: list[dict], **keys: object) -> Preparation:
    settings = {"data": esci_file(tmp_path / "x.parquet", rows), "batch_size": 8, "heldout_share": 0.2, **keys}
    return Preparation(EsciConfig(**settings), EsciPrompter(tiny_tokenizer(), PromptSettings(max_prompt_tokens=600)))


def test_a_file_whose_rows_are_all_skipped_is_refused_with_the_first_of_them(tmp_path: Path) -> None:
    rows = [row | {"query": "long " * 300} for row in esci_rows(3)]
    with pytest.raises(UserError, match=r"x\.parquet: no row can be used; the first of 12 that were skipped is .*x\.parquet:1: "):
        preparation(tmp_path, rows, skip_bad=True).check()


def test_a_query_is_on_one_side_only_however_it_is_written(tmp_path: Path) -> None:
    rows = esci_rows(60)
    rows += [row | {"query": row["query"].upper().replace(" ", "   ")} for row in rows]
    made = preparation(tmp_path, rows)
    counts = made.check()
    made.write(tmp_path / "data", counts)
    train, heldout = Rows(tmp_path / "data" / TRAIN), Rows(tmp_path / "data" / HELDOUT)
    sides = [{" ".join(query.lower().split()) for query in side.column("query")} for side in (train, heldout)]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == 60
    assert (len(train), len(heldout), len(sides[1])) == (counts.rows, counts.heldout_rows, counts.heldout_queries)
    assert 0.1 < len(heldout) / 480 < 0.3
    assert prepared(tmp_path / "data") == counts
    again = preparation(tmp_path, rows[::-1])  # the file's order says nothing
    assert again.check() == counts


def test_one_query_is_trained_on_and_no_share_holds_nothing_out(tmp_path: Path) -> None:
    assert preparation(tmp_path, esci_rows(2), heldout_share=0.0).check().heldout_rows == 0
    assert preparation(tmp_path, esci_rows(3), heldout_share=0.001, batch_size=4).check().heldout_queries == 1


def test_every_epoch_shows_other_whole_updates_of_the_rows(tmp_path: Path) -> None:
    made = preparation(tmp_path, esci_rows(5), heldout_share=0.0)
    made.write(tmp_path / "data", made.check())
    order = ShuffledRows(Rows(tmp_path / "data" / TRAIN), seed=1, batch_size=8, steps=5)
    numbers = [order[index].number for index in range(len(order))]
    assert len(numbers) == 40
    epochs = [numbers[:16], numbers[16:32]]  # 20 rows are two updates of 8
    assert all(max(Counter(epoch).values()) == 1 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert numbers == [order[index].number for index in range(len(order))]


def test_classes_without_rows_are_reported(tmp_path: Path) -> None:
    rows = [row for row in esci_rows(10) if row["esci_label"] != "C"]
    assert preparation(tmp_path, rows).check().notes == ("no row has the label complement",)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("model"), arch="qwen3")


@pytest.mark.parametrize(
    ("rows", "keys", "reason"),
    [
        (esci_rows(1), {}, "4 training rows are fewer than one update of 8; lower it"),
        ([*esci_rows(9), GOOD | {"esci_label": "?"}], {}, r"x.parquet:37: esci_label is \"\?\""),
        ([*esci_rows(9), GOOD | {"query": "long " * 200}], {}, r"x.parquet:37: the query leaves no room .*max_prompt_tokens=600"),
        (esci_rows(9), {"max_prompt_tokens": 100}, "template and system prompt alone take"),
        (esci_rows(9), {"max_prompt_tokens": 5000}, "more than the 2048 positions .* use max_prompt_tokens=2048"),
        (esci_rows(9), {"ranks": 3, "ray": {"inline": False}}, "cannot be shared by ranks=3"),
        (esci_rows(9), {"ranks": 2}, "set ranks=1"),
        (esci_rows(9), {"model": "nowhere"}, "there is no folder nowhere"),
    ],
)
def test_bad_input_gives_a_one_sentence_error_and_nothing_is_written(
    model: str, tmp_path: Path, rows: list[dict], keys: dict, reason: str
) -> None:
    data = esci_file(tmp_path / "x.parquet", rows)
    settings = {
        "model": model, "data": data, "output": str(tmp_path / "run"), "batch_size": 8, "max_prompt_tokens": 600,
        "heldout_share": 0.0, "ray": {"inline": True},
    }  # fmt: skip
    with pytest.raises(UserError, match=reason) as caught:
        run(EsciConfig(**{**settings, **keys}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
