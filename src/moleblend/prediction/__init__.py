"""Use of a model: predictions and vectors for every row, large files, explanations, export."""
