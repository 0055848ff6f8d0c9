"""A rerank server: one address that answers as Jina's, Cohere's, vLLM's and text-embeddings-inference's servers do."""
