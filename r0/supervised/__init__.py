"""What is trained without RL, on Ray Train."""
