"""What r0 keeps transformers from importing, in the process of these tests."""

from __future__ import annotations

import importlib

import pytest

from r0.process.lean_imports import UNUSED


@pytest.mark.parametrize("module", UNUSED)
def test_modules_that_every_model_class_needs_do_without_what_r0_does_not_use(module):
    assert getattr(importlib.import_module(module), UNUSED[module])() is False


def test_others_see_what_is_installed():
    from transformers.utils import import_utils

    assert import_utils.is_sklearn_available()
    assert import_utils.is_scipy_available()
