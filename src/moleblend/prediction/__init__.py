"""Using a model: prediction and vectors for every row, large files, explanations, export."""
