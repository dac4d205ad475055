"""Sentences to BERT features."""
