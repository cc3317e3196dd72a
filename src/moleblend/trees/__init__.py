"""Random forests as members of a model: training, storage, evaluation and averaging."""
