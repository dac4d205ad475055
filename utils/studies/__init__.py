"""Studies of several trainings: comparisons, ablations, hyperparameter searches, their tables."""
