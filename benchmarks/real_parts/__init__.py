"""Parts of benchmarks/real.py."""
