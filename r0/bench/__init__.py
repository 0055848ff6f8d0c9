"""Benchmarks: which data sets belong to one, and its table."""
