"""Advantages and losses from rewards and log-probabilities: pure tensor maths, independent of Ray and DeepSpeed."""
