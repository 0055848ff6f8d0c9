"""What a larger model says of queries and documents: thoughts, verdicts, scores."""
