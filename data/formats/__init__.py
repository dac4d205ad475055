"""Foreign files to arrays in memory: .csd files, the pickles that circulate, folds."""
