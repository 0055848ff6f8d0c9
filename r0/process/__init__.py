"""Environment, devices, allocator and signals of a process."""
