"""How an image encoder's output becomes tokens on a grid."""

from types import SimpleNamespace

import torch
from transformers.modeling_outputs import BaseModelOutput

from modeling_ume.vision_ume import image_tokens


def test_an_image_cut_into_oblong_patches_has_their_grid():
    outputs = BaseModelOutput(last_hidden_state=torch.zeros(1, 33, 4))
    tokens, num_special, grid = image_tokens(SimpleNamespace(patch_size=(4, 8)), outputs, (32, 32))
    assert tokens.shape == (1, 33, 4)
    assert (num_special, grid) == (1, (8, 4))
