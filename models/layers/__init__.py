"""What models are made of: plain PyTorch."""
