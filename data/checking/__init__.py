"""Checking whether a prepared dataset is complete and valid, and summarising it."""
