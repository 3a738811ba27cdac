"""What a model, an adapter, an export or a folder about to be shipped is, against what it should be."""
