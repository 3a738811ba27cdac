"""Models written to files: GGUF and transformers folders, with their types kept or changed."""
