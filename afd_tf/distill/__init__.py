"""Peers that learn from each other: the step, its losses and its optimizers."""
