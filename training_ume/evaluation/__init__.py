"""Answering and scoring: checkpoints, baselines, retrieval, the challenge server's files."""

from training_ume.moved import find

__getattr__ = find("evaluation")
