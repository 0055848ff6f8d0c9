"""r0 comes before transformers, as in its own processes (``r0/process/lean_imports.py``)."""

import r0  # noqa: F401
