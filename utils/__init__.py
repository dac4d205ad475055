"""The loops (training, evaluation) and what they report."""
