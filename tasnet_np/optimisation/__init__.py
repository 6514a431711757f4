"""How parameters change: optimisers, what they do to each array, and one step of training."""
