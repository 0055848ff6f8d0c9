"""Hard negatives: a collection with judgements, what ranks it, what is taken from the ranks, and the files of it."""
