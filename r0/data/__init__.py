"""Input data: readers of every format, and the built-in task."""
