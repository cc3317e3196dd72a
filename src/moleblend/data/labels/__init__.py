"""Labels: which columns of a table are targets, and which values their cells hold."""
