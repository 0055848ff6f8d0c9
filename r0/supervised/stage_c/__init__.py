"""Stage C: a score that orders close calls, learned without new layers, on Ray Train."""
