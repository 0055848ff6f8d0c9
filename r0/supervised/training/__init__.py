"""What all supervised trainings share: driver, job, ranks, checkpoints."""
