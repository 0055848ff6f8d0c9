"""Memory estimates of a run, computed from the configuration and a model's ``config.json`` without loading anything."""
