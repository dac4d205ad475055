"""The encoder in C++."""
