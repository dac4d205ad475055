"""The layers of the models, in plain PyTorch."""
