"""Data sets by name: as BEIR, MTEB and Tevatron lay them out on the Hub, read by its own client; folders of `datasets`."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

from r0.config import DistillConfig, EvaluateConfig, FinetuneConfig, MineConfig, RerankConfig, RetrieveConfig, StageAConfig
from r0.config.load import load
from r0.data.groups import by_query
from r0.data.jsonl import BadLines, read_lines
from r0.data.labelled import LabelBounds
from r0.data.labelled_rows import kind_of_labelled, read_labelled
from r0.data.named import store
from r0.data.named.hub import configs_of
from r0.data.named.layout import parts_of
from r0.data.named.resolve import with_kept_data, with_local_data, with_names
from r0.data.source import open_source
from r0.errors import UserError
from r0.evaluation.first_stage import retrieve
from r0.launch import main
from r0.mining.collection import open_collection
from r0.process.folders import process_name
from r0.runs import RunDirectory, RunState
from tests import hub

A_COMMIT = "1" * 40


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch) -> Path:
    """The Hub's client without a network, with an empty cache; r0's cache is empty, too."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.fixture
def online(offline, tmp_path, monkeypatch):
    """A Hub with all data sets, served on this machine; yields the paths that were asked for."""
    from huggingface_hub import constants

    for name, files in {**hub.BEIR, **hub.MTEB, **hub.TEVATRON, "secret/gated": {"train.jsonl": b"{}"}}.items():
        hub.write(tmp_path / "served" / name, files)
    with hub.served(tmp_path / "served", gated=("secret/gated",)) as (address, asked):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield asked


def local(data: str) -> Path:
    """What ``data=`` has become."""
    return Path(with_local_data(RerankConfig(model="m", data=data)).data)


def refused(data: str) -> str:
    with pytest.raises(UserError) as error:
        local(data)
    return str(error.value)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def splits(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8").removeprefix(hub.TSV) for path in (folder / "qrels").glob("*")}


WHOLE = {"test": "q0\td1\t1\n", "train": "q1\td2\t1\nq2\td3\t2\n"}


@pytest.mark.parametrize(
    ("repositories", "name", "judgements"),
    [
        (hub.BEIR, "BeIR/tides", WHOLE),
        (hub.BEIR_BEFORE, "BeIR/old", {"test": "q0\td1\t1\n"}),
        (hub.MTEB, "mteb/tides", WHOLE),
    ],
)
def test_a_data_set_of_the_hub_is_a_beir_folder(offline, capsys, repositories, name, judgements):
    hub.cache(offline, repositories)
    folder = local(f"hf:{name}")
    assert read(folder / "corpus.jsonl") == hub.DOCUMENTS
    assert read(folder / "queries.jsonl") == hub.QUERIES
    assert splits(folder) == judgements
    said = capsys.readouterr().err
    assert f"r0: data: hf:{name}@{hub.commit_of(name)}: 6 documents, 3 queries, judgements: test 1" in said


def test_a_split_has_the_queries_that_are_judged_in_it(offline):
    hub.cache(offline, {**hub.BEIR, **hub.MTEB})
    for name in ("hf:BeIR/tides/train", "hf:mteb/tides/train"):
        folder = local(name)
        assert splits(folder) == {"train": WHOLE["train"]}
        assert [row["_id"] for row in read(folder / "queries.jsonl")] == ["q1", "q2"]
        assert len(read(folder / "corpus.jsonl")) == 6


@pytest.mark.parametrize("name", ["BeIR/tides", "mteb/tides", "mteb/many"])
def test_files_and_splits_are_those_that_datasets_finds(tmp_path, name):
    from datasets import get_dataset_config_names, load_dataset

    folder = hub.write(tmp_path / "repository", {**hub.BEIR, **hub.MTEB}[name])
    found: dict[tuple[str, str], list[dict]] = {}
    for config in get_dataset_config_names(str(folder)):
        for split, rows in load_dataset(str(folder), config, cache_dir=str(tmp_path / "arrow")).items():
            found[config, split] = rows.to_list()
    parts = parts_of([path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()], configs_of(folder))
    ours = {
        (config, split): [
            line.row for part in parts if part[:2] == (config, split) for line in read_lines(folder / part.path, BadLines())
        ]
        for config, split, _ in parts
    }
    assert ours == found


def test_subsets_are_named_behind_the_data_set(offline):
    hub.cache(offline, hub.MTEB)
    assert read(local("hf:mteb/many/fr") / "corpus.jsonl")[0]["text"].startswith("fr ")
    assert splits(local("hf:mteb/many/de/test")) == {"test": "q0\td1\t1\n"}
    assert splits(local("hf:mteb/tides/default/test")) == {"test": "q0\td1\t1\n"}
    assert refused("hf:mteb/many") == "data: hf:mteb/many: has the subsets de, fr; name one of them behind the name and a slash"
    assert "has no subset en, but de, fr" in refused("hf:mteb/many/en/test")


def test_splits_with_texts_of_their_own_are_chosen_not_mixed(offline):
    hub.cache(offline, hub.MTEB)
    folder = local("hf:mteb/splits/test")
    assert [row["text"] for row in read(folder / "corpus.jsonl")] == [f"the moon pulls tide {at} of test" for at in (3, 4, 5)]
    assert [row["_id"] for row in read(folder / "queries.jsonl")] == ["q1"]
    assert 'the document "d3" has another text in another split; name one split' in refused("hf:mteb/splits")


def test_what_is_in_several_splits_is_read_once(offline):
    files = dict(hub.MTEB["mteb/splits"])
    for split, at in (("dev", 0), ("test", 2)):
        files[f"corpus/{split}-00000-of-00001.parquet"] = hub.DOCUMENTS[at : at + 4]
    hub.cache(offline, {"mteb/splits": files})
    assert read(local("hf:mteb/splits") / "corpus.jsonl") == hub.DOCUMENTS


def test_rows_of_tevatron_are_a_file_for_finetune(offline):
    hub.cache(offline, hub.TEVATRON)
    for name, rows in (("tides", hub.ROWS[1:]), ("tides/dev", hub.ROWS[:1]), ("beir/nq", hub.ROWS[:1])):
        path = Path(with_local_data(FinetuneConfig(data=f"hf:Tevatron/{name}")).data)
        assert read(path) == rows
        found = list(by_query(read_labelled(path, kind_of_labelled(path, False), LabelBounds(), BadLines(), "")))
        assert [one.query for one in found] == [row["query"] for row in rows]
        assert found[0].documents[0].startswith("Title ")
    assert "has no split test, but dev, train" in refused("hf:Tevatron/tides/test")


def test_a_corpus_of_tevatron_takes_queries_and_judgements_from_its_rows(offline):
    hub.cache(offline, hub.TEVATRON)
    folder = local("hf:Tevatron/tides-corpus")
    assert read(folder / "corpus.jsonl") == hub.DOCUMENTS
    assert sorted(row["_id"] for row in read(folder / "queries.jsonl")) == ["q0", "q1", "q2"]
    assert splits(folder) == {"dev": "q0\td0\t1\n", "train": "q1\td1\t1\nq2\td2\t1\n"}
    assert splits(local("hf:Tevatron/tides-corpus/dev")) == {"dev": "q0\td0\t1\n"}
    assert len(read(local("hf:Tevatron/beir-corpus/nq/test") / "corpus.jsonl")) == 2


def test_rows_that_name_their_documents_are_judgements_of_the_corpus(offline):
    rows = [{"query_id": "q0", "query": "moon", "positive_document_ids": ["d1", "d4"], "negative_document_ids": ["d2"]}]
    file = "data/train-00000-of-00001.parquet"
    hub.cache(offline, {"T/x": {file: rows}, "T/x-corpus": {file: hub.PASSAGES}})
    folder = local("hf:T/x-corpus")
    assert splits(folder) == {"train": "q0\td1\t1\nq0\td4\t1\n"}
    assert read(folder / "queries.jsonl") == [{"_id": "q0", "text": "moon"}]


def test_the_commands_read_a_name(offline, tmp_path):
    hub.cache(offline, {**hub.BEIR, **hub.TEVATRON})
    found = retrieve(with_local_data(RetrieveConfig(data="hf:BeIR/tides", output=str(tmp_path / "bm25.trec"))))
    assert (found.queries, found.candidates) == (3, 18)
    qrels = with_local_data(EvaluateConfig(qrels=("hf:BeIR/tides", "hf:BeIR/tides/train"), runs=("r.trec",))).qrels
    assert [Path(path).name for path in qrels] == ["test.tsv", "train.tsv"]
    assert with_local_data(EvaluateConfig(qrels=("hf:BeIR/tides-qrels/train",), runs=("r",))).qrels[0].endswith("rows.jsonl")
    config = with_local_data(StageAConfig(data="hf:BeIR/tides", run=str(tmp_path / "bm25.trec"), heldout_share=0.0))
    assert len(open_source(config, 1)) == 18
    collection = open_collection(with_local_data(MineConfig(data="hf:BeIR/tides")))
    assert [query.positives for query in collection.queries] == [("d2",), ("d3",)]
    collection = open_collection(with_local_data(MineConfig(data="hf:Tevatron/tides")))
    assert len(collection.queries) == 2
    config = load(DistillConfig, None, ["teacher.model=t", "data=hf:Tevatron/tides", "test=hf:Tevatron/tides/dev"])
    assert Path(with_local_data(config).test).read_bytes() == hub.lines(hub.ROWS[:1])


def test_the_command_line_takes_a_name(offline, tmp_path, capsys):
    hub.cache(offline, hub.BEIR)
    assert main(["retrieve", "data=hf:BeIR/tides/test", f"output={tmp_path / 'bm25.trec'}"]) == 0
    assert len((tmp_path / "bm25.trec").read_text().splitlines()) == 6
    assert main(["eval", "qrels=hf:BeIR/tides", f"runs={tmp_path / 'bm25.trec'}"]) == 0
    assert "means over 1 judged query" in capsys.readouterr().out
    assert main(["eval", "qrels=hf:no/such", f"runs={tmp_path / 'bm25.trec'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("r0: qrels: no/such on the Hugging Face Hub cannot be reached")
    assert said.count("\n") == 1


def test_a_name_with_judgements_of_one_split_sets_qrels_unless_it_is_given(offline):
    hub.cache(offline, hub.BEIR)
    assert with_local_data(StageAConfig(data="hf:BeIR/tides/train", run="r")).qrels == "train"
    assert with_local_data(StageAConfig(data="hf:BeIR/tides/train", run="r", qrels="test")).qrels == "test"
    assert with_local_data(StageAConfig(data="hf:BeIR/tides", run="r")).qrels == "test"


def test_a_bad_line_is_left_to_the_reader(offline, tmp_path):
    files = {**hub.MTEB["mteb/tides"], "corpus.jsonl": hub.lines(hub.DOCUMENTS) + b'{"_id": "d9"}\nnot JSON\n'}
    hub.cache(offline, {"mteb/tides": files})
    config = with_local_data(RetrieveConfig(data="hf:mteb/tides", output=str(tmp_path / "x.trec")))
    with pytest.raises(UserError, match=r'corpus.jsonl:7: the field "text" is missing'):
        retrieve(config)
    assert retrieve(config.model_copy(update={"skip_bad": True})).bad.count == 2


def test_a_run_records_the_revision_and_refuses_another(offline, tmp_path, monkeypatch):
    hub.cache(offline, hub.TEVATRON)
    name = f"hf:Tevatron/tides@{hub.commit_of('Tevatron/tides')}"
    config = FinetuneConfig(data="hf:Tevatron/tides")
    first = with_local_data(config)
    assert with_names(first).data == name
    with RunDirectory.open(tmp_path / "run", "finetune", first) as run:
        (run.path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert f"\ndata: {name}\n" in (tmp_path / "run" / "config.yaml").read_text()
    shutil.rmtree(tmp_path / "cache")  # a cache elsewhere, the same content
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert RunDirectory.look(tmp_path / "run", "finetune", with_local_data(config)) == RunState.RESUMABLE
    hub.cache(offline, {"Tevatron/tides": {"train.jsonl.gz": hub.lines(hub.ROWS[:1], packed=True)}}, version=2)
    other = f"hf:Tevatron/tides@{hub.commit_of('Tevatron/tides', 2)}"
    with pytest.raises(UserError, match=rf"data \({name} there, {other} here\)"):
        RunDirectory.look(tmp_path / "run", "finetune", with_local_data(config))
    again = with_local_data(FinetuneConfig(data=name))
    assert RunDirectory.look(tmp_path / "run", "finetune", again) == RunState.RESUMABLE


def test_data_that_was_read_is_kept(offline, tmp_path):
    hub.cache(offline, hub.BEIR)
    folder = local("hf:BeIR/tides")
    hub.write(offline / "datasets--BeIR--tides" / "refs", {"refs/pr/1": hub.commit_of("BeIR/tides").encode()})
    assert local("hf:BeIR/tides@refs/pr/1") == folder
    times = (folder / "corpus.jsonl").stat().st_mtime_ns
    assert local("hf:BeIR/tides") == folder
    assert (folder / "corpus.jsonl").stat().st_mtime_ns == times
    name = store.name_of(str(folder))
    shutil.rmtree(offline)
    assert local(name) == folder  # a commit never changes
    assert "cannot be reached" in refused("hf:BeIR/tides")
    assert with_kept_data(RerankConfig(model="m", data=name)).data == str(folder)
    assert with_kept_data(RerankConfig(model="m", data=f"hf:BeIR/tides@{A_COMMIT}")).data == f"hf:BeIR/tides@{A_COMMIT}"


def test_what_a_killed_process_left_is_deleted(offline, tmp_path):
    hub.cache(offline, hub.BEIR)
    name = process_name()
    folders = [
        tmp_path / "cache" / "r0" / "data" / f".partial-{owner}-x"
        for owner in (name.replace(f"-{os.getpid()}", "-4194305"), name)
    ]
    for folder in folders:
        hub.write(folder, {"corpus.jsonl": b"half of it"})
    local("hf:BeIR/tides")
    assert [folder.exists() for folder in folders] == [False, True]
    assert len(list(folders[0].parent.glob(".partial-*"))) == 1


def test_a_data_set_that_is_made_twice_at_once_is_whole(offline):
    hub.cache(offline, hub.BEIR)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(local("hf:BeIR/tides"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert read(found[0] / "corpus.jsonl") == hub.DOCUMENTS


def test_a_data_set_is_downloaded_from_the_hub(online, offline):
    folder = local("hf:BeIR/tides")
    assert read(folder / "corpus.jsonl") == hub.DOCUMENTS
    assert splits(folder) == WHOLE
    assert (offline / "datasets--BeIR--tides" / "snapshots" / hub.commit_of("BeIR/tides") / "README.md").is_file()
    online.clear()
    assert local("hf:BeIR/tides") == folder
    assert not [path for path in online if path.endswith((".parquet", ".tsv"))]  # only the revision is asked for


def test_only_the_files_of_a_subset_are_downloaded(online):
    local("hf:mteb/many/de")
    assert [path for path in online if "/resolve/" in path and "/de-corpus/" in path]
    assert not [path for path in online if "/resolve/" in path and ("/fr-" in path or "top_ranked" in path)]


def test_a_broken_network_falls_back_to_the_cache(online, offline, monkeypatch):
    from huggingface_hub import constants

    folder = local("hf:BeIR/tides")
    for name, value in (("ENDPOINT", ""), ("HUGGINGFACE_CO_URL_TEMPLATE", "/{repo_id}/resolve/{revision}/{filename}")):
        monkeypatch.setattr(constants, name, "http://127.0.0.1:9" + value)
    assert local("hf:BeIR/tides") == folder
    assert "cannot be reached" in refused("hf:mteb/tides")


def test_what_the_hub_refuses_is_one_sentence(online):
    assert refused("hf:no/such") == (
        "data: there is no data set no/such on the Hugging Face Hub, or it is private; check the name, and for a private one log "
        "in with `hf auth login`, or set HF_TOKEN"
    )
    assert "or it is private" in refused("hf:nobody/knows")  # 401, as the Hub says to strangers
    assert refused("hf:BeIR/tides@v9") == (
        "data: BeIR/tides on the Hugging Face Hub has no revision v9; give a branch, a tag or a commit behind @"
    )
    assert refused("hf:secret/gated") == (
        "data: secret/gated on the Hugging Face Hub is gated; accept its conditions on its page, and log in with `hf auth "
        "login`, or set HF_TOKEN"
    )
    assert refused("hf:BeIR/tides/dev").endswith("has no split dev, but test, train; name one that is there, or none")


@pytest.mark.parametrize("name", ["hf:", "hf:scifact", "hf:a/b/c/d/e", "hf:a/b@", "hf:a b/c", "hf:/x"])
def test_a_name_of_another_form_is_refused(name):
    assert "write it as hf:OWNER/NAME" in refused(name)


def test_without_a_network_the_sentence_says_so():
    assert refused("hf:BeIR/tides") == (
        "data: BeIR/tides on the Hugging Face Hub cannot be reached, and not all that is needed is in the local cache; run it "
        "once with a network and without HF_HUB_OFFLINE=1, or give a local folder"
    )


def test_a_cache_that_lacks_a_part_is_refused(offline):
    files = dict(hub.BEIR["BeIR/tides"])
    del files["corpus/corpus-00001-of-00002.parquet"]
    hub.cache(offline, {"BeIR/tides": files, "BeIR/tides-qrels": hub.BEIR["BeIR/tides-qrels"]})
    assert "corpus/corpus-00001-of-00002 is not in the Hub's cache" in refused("hf:BeIR/tides")


def test_judgements_that_cannot_be_had_are_named(offline, capsys):
    hub.cache(offline, {"BeIR/tides": hub.BEIR["BeIR/tides"]})
    folder = local("hf:BeIR/tides")
    assert not (folder / "qrels").exists()
    assert "judgements: none (BeIR/tides-qrels is not there)" in capsys.readouterr().err
    assert "has no split test, and no judgements at all" in refused("hf:BeIR/tides/test")


def test_a_repository_without_data_is_refused(offline):
    hub.cache(offline, {"irds/x": {"README.md": b"# x", "x.py": b""}, "a/half": {"corpus.jsonl": hub.lines(hub.DOCUMENTS)}})
    assert "has no files of data that r0 reads" in refused("hf:irds/x")
    assert "has a corpus, but no queries" in refused("hf:a/half")


def save_to_disk(folder: Path) -> None:
    """A data set as ``datasets`` saves it, one folder a configuration."""
    from datasets import Dataset, DatasetDict

    DatasetDict({"corpus": Dataset.from_list(hub.DOCUMENTS)}).save_to_disk(str(folder / "corpus"))
    Dataset.from_list(hub.QUERIES).save_to_disk(str(folder / "queries"))
    grades = {"train": hub.judged("q1 d2 1", "q2 d3 2"), "test": hub.judged("q0 d1 1")}
    DatasetDict({split: Dataset.from_list(rows) for split, rows in grades.items()}).save_to_disk(str(folder / "qrels"))


def test_folders_of_save_to_disk_are_read(tmp_path):
    from datasets import Dataset, DatasetDict

    save_to_disk(tmp_path / "saved")
    folder = local("saved")
    assert read(folder / "corpus.jsonl") == hub.DOCUMENTS
    assert read(folder / "queries.jsonl") == hub.QUERIES
    assert splits(folder) == WHOLE
    assert with_names(with_local_data(RerankConfig(model="m", data="saved"))).data == str(tmp_path / "saved")
    DatasetDict({"train": Dataset.from_list(hub.ROWS[1:]), "dev": Dataset.from_list(hub.ROWS[:1])}).save_to_disk("rows")
    assert read(local("rows")) == hub.ROWS[1:]
    assert read(local("rows/dev")) == hub.ROWS[:1]
    Dataset.from_list(hub.ROWS).select([2, 0]).save_to_disk("one")
    assert read(local("one")) == [hub.ROWS[2], hub.ROWS[0]]
    assert "has no split test, but dev, train" in refused("rows/test")


def test_folders_of_parquet_and_downloaded_repositories_are_read(tmp_path):
    hub.write(tmp_path / "clone", hub.MTEB["mteb/many"])
    assert read(local("clone/de") / "corpus.jsonl")[0]["text"].startswith("de ")
    hub.write(tmp_path / "rows", {f"data/train-0000{at}-of-00002.parquet": hub.ROWS[at : at + 1] for at in (0, 1)})
    assert read(local("rows")) == hub.ROWS[:2]
    before = local("rows")
    hub.write(tmp_path / "rows", {"data/train-00001-of-00002.parquet": hub.ROWS[2:]})
    assert local("rows") != before
    assert read(local("rows")) == [hub.ROWS[0], hub.ROWS[2]]


def test_beir_folders_files_and_missing_ones_stay_what_they_are(tmp_path):
    beir = hub.write(tmp_path / "beir", {"corpus.jsonl": hub.lines(hub.DOCUMENTS), "queries.jsonl": hub.lines(hub.QUERIES)})
    hub.write(tmp_path / "empty", {"notes.txt": b"nothing"})
    hub.write(tmp_path / "lines", {"rows.jsonl": hub.lines(hub.ROWS)})
    for text in (str(beir), "empty", "lines", "lines/rows.jsonl", "lines/missing", "missing/rows", "builtin", "rows-{}.jsonl"):
        assert with_local_data(RerankConfig(model="m", data=text)).data == text
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_named(offline, tmp_path):
    hub.cache(offline, hub.BEIR)
    (tmp_path / "cache").write_text("a file")
    assert f"{tmp_path / 'cache' / 'r0' / 'data'}: cannot be written" in refused("hf:BeIR/tides")


@pytest.fixture
def tides():
    """The real ir_datasets with a small data set of its own, ``r0/tides/dev``."""
    irds = pytest.importorskip("ir_datasets", reason="ir_datasets is not installed here; it is no dependency of r0")
    from ir_datasets.datasets.beir import BeirTitleDoc
    from ir_datasets.formats import BaseDocs, BaseQrels, BaseQueries, GenericQuery, TrecQrel

    class Documents(BaseDocs):
        def docs_iter(self):
            return (BeirTitleDoc(one["_id"], one["text"], one["title"]) for one in hub.DOCUMENTS)

        def docs_cls(self):
            return BeirTitleDoc

    class Queries(BaseQueries):
        def queries_iter(self):
            return (GenericQuery(one["_id"], one["text"]) for one in hub.QUERIES)

    class Grades(BaseQrels):
        def qrels_iter(self):
            return iter([TrecQrel("q0", "d1", 2, "0"), TrecQrel("q1", "d3", -1, "0")])

    class Unreachable(Documents):
        def docs_iter(self):
            raise ConnectionError("Max retries exceeded")

    irds.registry.register("r0/tides", irds.Dataset(Documents()))
    irds.registry.register("r0/unreachable", irds.Dataset(Unreachable(), Queries()))
    irds.registry.register("r0/tides/dev", irds.Dataset(Documents(), Queries(), Grades()))
    yield irds
    for name in ("r0/tides", "r0/unreachable", "r0/tides/dev"):
        irds.registry._registered.pop(name)


def test_a_data_set_of_ir_datasets_is_a_beir_folder(tides, capsys):
    folder = local("ir_datasets:r0/tides/dev")
    assert read(folder / "corpus.jsonl") == hub.DOCUMENTS
    assert read(folder / "queries.jsonl") == hub.QUERIES
    assert splits(folder) == {"dev": "q0\td1\t2\nq1\td3\t-1\n"}
    assert "r0: data: ir_datasets:r0/tides/dev: 6 documents, 3 queries, judgements: dev 2, in " in capsys.readouterr().err
    assert with_local_data(StageAConfig(data="ir_datasets:r0/tides/dev", run="r")).qrels == "dev"
    assert with_names(RerankConfig(model="m", data=str(folder))).data == "ir_datasets:r0/tides/dev"
    assert refused("ir_datasets:r0/tides").endswith("has no queries; name one that has, such as r0/tides/test")
    assert "ir_datasets has no data set no/such" in refused("ir_datasets:no/such")


def test_a_download_of_ir_datasets_that_fails_is_one_sentence(tides):
    assert refused("ir_datasets:r0/unreachable") == (
        "data: ir_datasets:r0/unreachable: cannot be read or downloaded (Max retries exceeded); try again later"
    )


def test_without_ir_datasets_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    assert refused("ir_datasets:beir/scifact/test") == (
        "data: ir_datasets:beir/scifact/test: needs the package ir_datasets, which is not installed; run `pip install "
        "ir_datasets`"
    )
