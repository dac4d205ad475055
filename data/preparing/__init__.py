"""Making a prepared dataset from foreign files."""
