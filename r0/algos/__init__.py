"""Rewards and log-probabilities → advantages and losses. Pure tensor maths: no Ray, no DeepSpeed, no configuration tree."""
