"""Your own fusion head: one class and one line in `FUSIONS`, trained like any other.

python examples/own_table.py && python examples/own_head.py

What is saved can be loaded where that line has run, too. A head that others are to load belongs into `modeling_ume`,
whose code travels with every checkpoint: CONTRIBUTING.md says how to add it.
"""

import torch
from own_table import DATA
from torch import nn

from configuration_ume.parsing import parse_recipe
from modeling_ume import FUSIONS, FusionHead, FusionOutput
from modeling_ume.fusion_base_ume import Projections
from training_ume.training.run import train_and_evaluate


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


FUSIONS["spread"] = Spread

if __name__ == "__main__":
    options = ["--fusion", "spread", "--output_dir", "runs/own_head", "--overwrite_output"]
    train_and_evaluate(parse_recipe(["easy_vqa", *DATA, *options]))
