"""A plan in, a smaller model out."""
