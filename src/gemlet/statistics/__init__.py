"""Intervals and tests for small samples. A leaf: numbers only, no model, no files."""
