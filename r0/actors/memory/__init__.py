"""Estimates of the GPU memory of a run, computed from the configuration and a model's ``config.json`` without loading anything."""
