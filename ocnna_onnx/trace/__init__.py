"""Which channels belong together, and where the walls are."""
