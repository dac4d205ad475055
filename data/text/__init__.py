"""Computing BERT features of sentences."""
