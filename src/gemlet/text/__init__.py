"""Text and tokens: the tokenizer, the chat format, and the way back from ids to text."""
