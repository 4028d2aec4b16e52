"""Names of what a batch holds, shared by those who make batches and those who leave a part out."""

from __future__ import annotations

from modeling_ume.modalities_ume import MODALITIES

# Models that are trained on one modality alone, and what they are given.
BLIND = {f"{kind.column}_only": kind.column for kind in MODALITIES.values()}
# What is left to the model (`inputs` of the collator) when one is missing, by the name of that.
LEFT = {
    kind.short: "+".join(other.column for other in MODALITIES.values() if other is not kind)
    for kind in reversed(MODALITIES.values())
}
