"""Files that are whole or not there, resumable JSONL, model folders."""
