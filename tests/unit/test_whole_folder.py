"""A folder that is whole or not there, and that others may read as far as the umask lets them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from r0.storage.files import whole_folder


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_weights_have_the_permissions_of_any_other_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "model") as folder:
            (folder / "adapter").mkdir()
            for name in ("model.safetensors", "adapter/model.safetensors"):
                save_file({"a": torch.zeros(1)}, folder / name)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").rglob("*.safetensors")} == {mode}


def fail_within(folder: Path) -> None:
    with whole_folder(folder) as partial:
        (partial / "a").write_text("new")
        raise ZeroDivisionError


def test_after_an_error_the_old_folder_is_there_and_nothing_else(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail_within(tmp_path / "model")
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
