"""Published models for comparison, one file each."""
