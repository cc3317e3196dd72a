"""HTML reports and their plots. matplotlib is imported in this package only."""
