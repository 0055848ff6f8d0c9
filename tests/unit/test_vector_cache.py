"""The disk cache of document vectors: stored vectors are read back bit by bit, damaged ones are not, and no failure stops a run.
"""

import hashlib
import logging
import multiprocessing
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch

from r0.errors import UserError
from r0.rerank import vector_cache
from r0.rerank.vector_cache import VectorCache, absolute, cache_folder, model_hash

TEXTS = ["a river", "ein Fluß", "川", "", "line\nand \x00 zero"]


def vectors(dtype=torch.float32, dim=3):
    made = torch.Generator().manual_seed(0)
    return {text: torch.randn((len(text), dim), generator=made).to(dtype) for text in TEXTS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stored_vectors_are_read_back_bit_by_bit(tmp_path, dtype):
    kept = vectors(dtype)
    cache = VectorCache(tmp_path / "deep" / "one.sqlite", dtype)
    assert cache.get(TEXTS) == {}
    cache.put(kept)
    cache.close()
    cache = VectorCache(tmp_path / "deep" / "one.sqlite", dtype)
    found = cache.get([*TEXTS, "unknown"])
    cache.close()
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[text], kept[text]) and found[text].dtype == dtype for text in TEXTS)
    assert found[""].shape == (0, 3)  # a document without a token that counts
    cache = VectorCache(tmp_path / "deep" / "one.sqlite", dtype)
    cache.put({"wider": torch.ones((2, 3), dtype=torch.float64)})
    assert torch.equal(cache.get(["wider"])["wider"], torch.ones((2, 3), dtype=dtype))
    cache.close()


def test_many_texts_are_queried_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(vector_cache, "ASKED", 7)
    kept = {f"text {i}": torch.full((2, 2), float(i)) for i in range(40)}
    cache = VectorCache(tmp_path / "one.sqlite", torch.float32)
    cache.put(kept)
    found = cache.get(list(kept))
    cache.close()
    assert {text: one[0, 0].item() for text, one in found.items()} == {f"text {i}": i for i in range(40)}


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE vectors SET vectors = substr(vectors, 1, length(vectors) - 4) WHERE text = ?",
        "UPDATE vectors SET vectors = zeroblob(length(vectors)) WHERE text = ?",
        "UPDATE vectors SET vectors = NULL WHERE text = ?",
        "UPDATE vectors SET vectors = 'words' WHERE text = ?",
        "UPDATE vectors SET dim = 0 WHERE text = ?",
        "UPDATE vectors SET dim = NULL WHERE text = ?",
    ],
)
def test_a_damaged_entry_is_unknown_and_can_be_written_again(tmp_path, damage):
    path, kept = tmp_path / "one.sqlite", vectors()
    cache = VectorCache(path, torch.float32)
    cache.put(kept)
    with sqlite3.connect(path) as file:
        assert file.execute(damage, [hashlib.sha256(b"a river").digest()]).rowcount == 1
    file.close()
    assert cache.get(TEXTS).keys() == kept.keys() - {"a river"}
    cache.put({"a river": kept["a river"]})
    assert torch.equal(cache.get(["a river"])["a river"], kept["a river"])
    cache.close()


def test_a_file_that_is_not_a_cache_gives_a_one_sentence_error(tmp_path):
    path = tmp_path / "one.sqlite"
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(UserError, match="cannot be used: file is not a database; delete it") as error:
        VectorCache(path, torch.float32)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="vector_cache"):
        VectorCache(path / "below" / "a.sqlite", torch.float32)


def test_damage_and_a_full_disk_are_logged_once_and_stop_nothing(tmp_path, caplog):
    path, kept = tmp_path / "one.sqlite", vectors()
    cache = VectorCache(path, torch.float32)
    cache.put({f"{i}": torch.randn(40, 40) for i in range(20)})
    cache.close()
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(os.urandom(path.stat().st_size - 4096))
    cache = VectorCache(path, torch.float32)
    with caplog.at_level(logging.WARNING):
        assert cache.get(["1", "2"]) == {}
        cache.put(kept)
        assert cache.get(TEXTS) == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "delete the file" in caplog.text
    full = VectorCache(tmp_path / "full.sqlite", torch.float32)
    full._file.execute("PRAGMA max_page_count = 20")
    caplog.clear()
    full.put(kept)
    with caplog.at_level(logging.WARNING):
        full.put({f"{i}": torch.randn(400, 400) for i in range(20)})
    assert "full" in caplog.text
    assert full.get(TEXTS) == {}
    full.close()
    again = VectorCache(tmp_path / "full.sqlite", torch.float32)  # the batch that did not fit is not there in part
    assert again.get([*TEXTS, *map(str, range(20))]).keys() == kept.keys()
    again.close()


def _write(path, name, rounds):
    cache = VectorCache(path, torch.float32)
    for number in range(rounds):
        cache.put({f"{name} {number} {i}": torch.full((8, 8), float(number)) for i in range(20)})
        cache.put({"shared": torch.full((8, 8), 7.0)})
        assert len(cache.get([f"{name} {number} {i}" for i in range(20)])) == 20
    assert cache._file is not None  # no fault on the way
    cache.close()


def test_processes_write_and_read_at_the_same_time(tmp_path):
    path, context = tmp_path / "one.sqlite", multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(path, name, 15)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    cache = VectorCache(path, torch.float32)
    found = cache.get([f"{name} {number} {i}" for name in "abc" for number in range(15) for i in range(20)])
    assert len(found) == 900
    assert torch.equal(cache.get(["shared"])["shared"], torch.full((8, 8), 7.0))
    cache.close()


def _die(path):
    cache = VectorCache(path, torch.float32)
    cache._file.execute("PRAGMA cache_size = 1")  # so that pages of the batch reach the disk before it is whole
    cache._file.execute("BEGIN IMMEDIATE")
    cache._file.executemany("INSERT INTO vectors VALUES (?, 1, 0, zeroblob(9999))", [(bytes([i]),) for i in range(200)])
    os._exit(9)


def test_a_process_that_dies_within_a_batch_leaves_what_was_there(tmp_path):
    path, kept = tmp_path / "one.sqlite", vectors()
    cache = VectorCache(path, torch.float32)
    cache.put(kept)
    dying = multiprocessing.get_context("fork").Process(target=_die, args=(path,))
    dying.start()
    dying.join()
    assert dying.exitcode == 9
    assert cache.get(TEXTS).keys() == kept.keys()
    assert cache._file.execute("SELECT count(*) FROM vectors").fetchone() == (len(TEXTS),)
    cache.put({"more": torch.ones(1, 1)})
    assert cache.get(["more"])
    cache.close()


def test_the_hash_of_a_model_is_of_its_files_and_of_how_it_is_used(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "1_Dense").mkdir(parents=True)
    (one / "model.safetensors").write_bytes(b"weights")
    (one / "1_Dense" / "model.safetensors").write_bytes(b"projection")
    (one / "modules.json").write_text("[]")
    shutil.copytree(one, two)
    (two / "README.md").write_text("where a model lies and its card change no vector")
    same = model_hash(one, "float32", None)
    assert same == model_hash(two, "float32", None)
    assert len(same) == 32
    assert same != model_hash(one, "bfloat16", None)
    assert same != model_hash(one, "float32", 100)
    (two / "1_Dense" / "model.safetensors").write_bytes(b"other")
    assert same != model_hash(two, "float32", None)


def test_the_folder_is_the_users_cache_unless_given(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("auto") == tmp_path / ".cache" / "r0" / "vectors"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("auto") == tmp_path / "xdg" / "r0" / "vectors"
    assert cache_folder("~/mine") == tmp_path / "mine"
    assert cache_folder("mine") == Path.cwd() / "mine"
    assert [absolute(one) for one in ("mine", "auto", "none", None)] == [str(Path.cwd() / "mine"), "auto", "none", None]
    assert cache_folder(None) is cache_folder("none") is None
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a writable folder; choose another"):
        cache_folder(str(tmp_path / "file" / "below"))
