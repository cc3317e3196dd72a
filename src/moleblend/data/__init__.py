"""Tables, labels, splits, cleaning and stores; `datasets/` holds the published data sets."""
