"""Prompts (what the model is shown) and completions (what the model writes)."""
