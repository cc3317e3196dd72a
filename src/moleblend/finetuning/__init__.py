"""`moleblend train`: preparation, hyperparameter search, runs, results and the run folder."""
