"""Published models to compare with, a file each."""
