"""Forecasts of memory, speed and cost, from a model's header and a machine's rates. No weights are loaded."""
