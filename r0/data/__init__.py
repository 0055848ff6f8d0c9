"""What comes in: record types, readers of every format, the built-in task."""
