"""Tensors: volumes, preparation, encoders, heads, saving and loading. Imports nothing of ours."""
