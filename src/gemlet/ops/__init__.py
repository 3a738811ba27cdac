"""The arithmetic contract: the operations a model is written in, the weight layout, and who executes them."""
