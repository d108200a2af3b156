"""DeepPruningES: an evolution strategy over filter masks that hands back three nets."""
