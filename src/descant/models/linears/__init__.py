"""What stands in for a model's linear layers: packed, rounded, or read in part."""
