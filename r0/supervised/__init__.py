"""Supervised training on Ray Train."""
