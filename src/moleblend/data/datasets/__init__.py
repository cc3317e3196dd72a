"""Published data sets: catalogue, download, conversion, reading."""
