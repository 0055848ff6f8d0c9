"""r0: a Ray-distributed trainer for rerankers that think before they rank."""

from r0.process import lean_imports

__version__ = "0.1.0"

lean_imports.install()
