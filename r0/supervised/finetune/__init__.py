"""Fine-tuning of a reranker on labelled documents."""
