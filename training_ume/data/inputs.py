"""Names of what a batch holds, shared by those who make batches and those who leave a part out."""

from __future__ import annotations

BLIND = {"question_only": "question", "image_only": "image"}
# What is left to the model (`inputs` of the collator) when the other input is missing.
LEFT = {"image": "question", "text": "image"}
