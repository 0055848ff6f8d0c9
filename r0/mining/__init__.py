"""Hard-negative mining: a collection with judgements, its ranking, the selection of negatives, and the output files."""
