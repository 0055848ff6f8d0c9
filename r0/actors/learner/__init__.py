"""The learner role: DeepSpeed ranks."""
