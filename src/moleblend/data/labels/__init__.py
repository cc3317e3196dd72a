"""Labels: which columns of a table are targets, and what their cells say."""
