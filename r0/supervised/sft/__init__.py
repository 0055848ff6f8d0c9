"""Supervised fine-tuning on rows with thoughts."""
