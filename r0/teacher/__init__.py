"""A larger model as a teacher: thoughts, verdicts and scores for queries and documents."""
