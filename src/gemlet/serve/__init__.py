"""An OpenAI-compatible server on top of open models."""
