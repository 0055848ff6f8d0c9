"""The parts of ``benchmarks/gpu_check.py``, a process each: what they claim, how it is tried, how it is shown."""
