"""The built-in task, whose data is generated."""
