"""How a model is run: precision, compilation, CUDA graphs."""
