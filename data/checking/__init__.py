"""Whether a prepared dataset is whole, and what is in it."""
