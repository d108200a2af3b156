"""Statistics and weights in, one score per channel out; one small function each."""
