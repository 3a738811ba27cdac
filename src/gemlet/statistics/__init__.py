"""Intervals and tests for small samples. A leaf: plain Python, no model, no files."""
