"""The four-class ESCI reranker: exact, substitute, complement, irrelevant."""
