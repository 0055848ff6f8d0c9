"""What a vLLM engine needs of this process before it starts."""

import sys

import pytest

from r0.actors.rollout.vllm_process import settle_llvmlite


def test_what_numba_brings_along_has_no_attributes_that_are_not_its_own():
    pytest.importorskip("llvmlite.binding")
    settle_llvmlite()
    settle_llvmlite()  # each engine does it
    library = sys.modules["llvmlite.binding.ffi"].lib
    assert not hasattr(library, "__dict__")
    assert callable(library.LLVMPY_GetVersionInfo)  # its functions are still there
