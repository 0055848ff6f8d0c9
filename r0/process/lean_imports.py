"""Keeps transformers and vLLM from importing what r0 does not use."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Modules that every model class needs, and what they ask before they import a library for one function that r0 does not call.
UNUSED = {
    "transformers.generation.candidate_generator": "is_sklearn_available",  # thresholds of assisted generation
    "transformers.loss.loss_for_object_detection": "is_scipy_available",
}


class WithoutUnused(MetaPathFinder):
    """Answers "no" to the questions in ``UNUSED``. Behind them are scikit-learn, SciPy and pandas, whose imports take 2 of the 7
    seconds of processor time of a process that imports a model class. Libraries that import these themselves get them.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find nothing; only notice that a module is about to be imported."""
        if name in UNUSED and (utils := sys.modules.get("transformers.utils")) is not None:
            setattr(utils, UNUSED[name], lambda: False)
        return None


def install() -> None:
    """Do so in this process."""
    if not any(isinstance(finder, WithoutUnused) for finder in sys.meta_path):
        sys.meta_path.insert(0, WithoutUnused())


@contextlib.contextmanager
def hidden(name: str) -> Iterator[None]:
    """Meanwhile ``name`` cannot be imported, unless it was before."""
    known = name in sys.modules
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: the import system's own word for it
    try:
        yield
    finally:
        if not known:
            del sys.modules[name]
