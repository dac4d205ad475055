"""A prepared dataset to batches."""
