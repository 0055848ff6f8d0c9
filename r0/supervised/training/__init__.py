"""Code shared by all supervised commands: driver, job, ranks, checkpoints."""
