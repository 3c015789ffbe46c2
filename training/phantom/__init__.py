"""Synthetic MRI from digital anatomy and signal equations."""
