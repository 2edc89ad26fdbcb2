"""Integer weights: how checkpoints store them, and how dense ones are rounded while they are loaded."""
