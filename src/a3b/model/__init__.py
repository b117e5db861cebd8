"""The model: its config, its weights, its state and the forward pass."""
