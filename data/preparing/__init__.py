"""Foreign files to a prepared dataset."""
