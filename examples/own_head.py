"""Your own fusion head: one class in a file of its own, trained like any other and saved with that file.

python examples/own_table.py && python examples/own_head.py

The same by command: ume train easy_vqa --fusion examples/own_head.py:Spread. Whoever loads what was saved needs
nothing but trust_remote_code=True, so this file imports only what is installed everywhere, and names of `ume` and
`modeling_ume`; what trains it stands below the last line of the class, where only this script comes.
"""

import torch
from torch import nn

from modeling_ume.fusion_base_ume import Projections
from ume import FusionHead, FusionOutput


class Spread(FusionHead):
    """A layer over [mean of the summaries; their variance]: the same whatever the order of the modalities."""

    def __init__(self, config, widths, pooled_widths=None):
        super().__init__(config, widths, pooled_widths)
        # Brings all summaries to width D. An absent modality has a learned vector there, so nothing below asks for it.
        self.project = Projections(config, pooled_widths=self.pooled_widths)
        self.out = nn.Linear(2 * self.hidden_size, self.hidden_size)

    def forward(self, streams):
        summaries = self.project.pooled(streams)  # [B, K, D] of K modalities
        both = torch.cat([summaries.mean(1), summaries.var(1, correction=0)], dim=-1)  # [B, 2 D]
        return FusionOutput(self.out(both).relu()[:, None])  # [B, 1, D]: one view


if __name__ == "__main__":
    from own_table import DATA

    import ume

    options = ["--fusion", f"{__file__}:Spread", "--output_dir", "runs/own_head", "--overwrite_output"]
    ume.train_and_evaluate(ume.parse_recipe(["easy_vqa", *DATA, *options]))
