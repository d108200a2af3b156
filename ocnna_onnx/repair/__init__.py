"""Statistics of the original and of the pruned net in, better weights for what is left out."""
