"""The generated task."""
