"""What r0 keeps transformers from importing, in the process of these tests."""

from __future__ import annotations

import importlib
import sys

import pytest

from r0.process.lean_imports import UNUSED, hidden


@pytest.mark.parametrize("module", UNUSED)
def test_modules_that_every_model_class_needs_do_without_what_r0_does_not_use(module):
    assert getattr(importlib.import_module(module), UNUSED[module])() is False


def test_others_see_what_is_installed():
    from transformers.utils import import_utils

    assert import_utils.is_sklearn_available()
    assert import_utils.is_scipy_available()


def test_a_hidden_module_is_missing_for_a_while_and_one_that_is_there_stays():
    with hidden("wave"):
        assert "json" in sys.modules
        with hidden("json"):
            importlib.import_module("json")
        with pytest.raises(ModuleNotFoundError, match="wave"):
            importlib.import_module("wave")
    assert importlib.import_module("wave")
