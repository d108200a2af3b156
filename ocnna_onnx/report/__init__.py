"""Tables, JSON and the comparison of the two models on samples."""
