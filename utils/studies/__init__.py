"""Questions that take several trainings: comparisons, ablations, and their table."""
