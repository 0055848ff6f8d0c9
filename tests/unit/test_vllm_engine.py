"""Preparing this process for a vLLM engine."""

import sys

import pytest

from r0.actors.rollout.vllm_engine import _settle_llvmlite


def test_what_numba_brings_along_has_no_attributes_that_are_not_its_own():
    pytest.importorskip("llvmlite.binding")
    _settle_llvmlite()
    _settle_llvmlite()  # each engine does it
    library = sys.modules["llvmlite.binding.ffi"].lib
    assert not hasattr(library, "__dict__")
    assert callable(library.LLVMPY_GetVersionInfo)  # its functions are still there
