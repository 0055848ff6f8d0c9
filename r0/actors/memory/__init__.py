"""What a run needs of its cards, by arithmetic: from a configuration and a model's ``config.json``, without loading anything."""
