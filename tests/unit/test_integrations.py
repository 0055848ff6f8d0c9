"""``r0.integrations`` without the libraries; with them: ``make test-integrations``."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "library", "package"),
    [
        ("langchain", "langchain_core", "langchain-core"),
        ("llama_index", "llama_index", "llama-index-core"),
        ("haystack", "haystack", "haystack-ai"),
        ("rerankers", "rerankers", "rerankers"),
    ],
)
def test_a_library_that_is_missing_is_named_with_the_remedy(module, library, package, monkeypatch):
    for name in [one for one in sys.modules if one.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"r0.integrations.{module}", raising=False)
    with pytest.raises(ImportError) as raised:
        importlib.import_module(f"r0.integrations.{module}")
    assert str(raised.value) == (
        f"r0.integrations.{module} needs {package}, which is not installed here; install it with `pip install {package}`"
    )
