"""Everything up to a batch: files -> segments -> arrays -> batches. Knows no model."""
