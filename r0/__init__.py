"""r0: a Ray-distributed trainer for rerankers that think before they rank."""

__version__ = "0.1.0"
