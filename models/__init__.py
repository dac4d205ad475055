"""Everything from a batch to a prediction. Knows no files but checkpoints."""
