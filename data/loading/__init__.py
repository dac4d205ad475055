"""Reading a prepared dataset in batches."""
