"""Runs, judgements and measures: what a ranking is worth, and whether it is better than the first stage's."""
