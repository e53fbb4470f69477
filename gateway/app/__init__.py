"""The object graph of one gateway."""
