"""Published data sets: what they are, where they come from, and how their files are read."""
