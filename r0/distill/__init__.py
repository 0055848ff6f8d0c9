"""Distillation of a reranker: a teacher's scores, what a student learns from them, and what it gained."""
