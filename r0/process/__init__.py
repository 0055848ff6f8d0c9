"""Environment, allocator and signals of a process."""
