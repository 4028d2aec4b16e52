"""Why this answer: where the model looked, which words and which modality mattered, how faithful that is."""

from training_ume.moved import find

__getattr__ = find("explain")
