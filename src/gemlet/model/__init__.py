"""What a model is: its configuration, its weights, and the forward pass."""
