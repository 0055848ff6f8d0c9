"""Distillation of a reranker: triplets from a teacher's scores, and the gain of a student."""
