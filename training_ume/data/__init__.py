"""Rows from what users have, their splits, and batches for the model."""

from training_ume.moved import find

__getattr__ = find("data")
