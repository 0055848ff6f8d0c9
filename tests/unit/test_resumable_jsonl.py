"""The file that interrupted work goes on from: when its lines are on the disk, and what is read back."""

import json
import os
from math import inf

import pytest

from r0.errors import UserError
from r0.storage.resumable_jsonl import ResumableJsonl


class Done(ResumableJsonl[int]):
    """Lines by their number, each on the disk at once."""

    def key_of(self, row):
        if row["number"] < 0:
            raise UserError("negative numbers are not asked for; start over with fresh=true")
        return int(row["number"])


class Waiting(Done):
    """Lines that wait for ``sync``."""

    SYNC_S = inf


@pytest.mark.parametrize(("kind", "synced"), [(Done, [14, 28, 42]), (Waiting, [28, 42])])
def test_a_line_is_on_the_disk_at_once_or_waits_for_sync_and_close(tmp_path, monkeypatch, kind, synced):
    path, sizes, fsync = tmp_path / "done.jsonl", [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: sizes.append(path.stat().st_size) or fsync(file))
    with kind(path) as done:
        for number in range(2):
            done.append({"number": number})
        if kind is Waiting:
            done.sync()
        done.append({"number": 2})
    assert sizes == synced


def test_lines_are_read_back_by_key_in_the_order_in_which_they_were_added(tmp_path):
    with Done(tmp_path / "done.jsonl") as done:
        for number in (7, 3):
            done.append({"number": number, "text": "é" * number})
    with Done(tmp_path / "done.jsonl", write=False) as done:
        assert (list(done), len(done), 3 in done, 4 in done) == ([7, 3], 2, True, False)
        assert done.row(3) == {"number": 3, "text": "ééé"}


@pytest.mark.parametrize(
    ("line", "words"),
    [({"number": -1}, r"done.jsonl:2: negative numbers are not asked for"), ({"other": 1}, r"done.jsonl:2: is damaged; delete")],
)
def test_a_line_that_does_not_belong_here_is_named(tmp_path, line, words):
    path = tmp_path / "done.jsonl"
    path.write_text('{"number": 1}\n' + json.dumps(line) + "\n")
    with pytest.raises(UserError, match=words):
        Done(path)
    assert len(path.read_text().splitlines()) == 2
