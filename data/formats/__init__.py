"""Reading foreign files into arrays: .csd files, processed pickles, folds."""
