"""Measuring models: quality, speed and cost, on results that are files."""
