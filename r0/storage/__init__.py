"""Atomic file writes, resumable JSONL files, and model folders."""
