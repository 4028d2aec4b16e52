"""Tiny models with random weights, so that every test runs offline and in seconds."""

import os

# Before any import of torch or huggingface_hub: no test may reach for a network, whatever the machine has.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from transformers import (
    BeitConfig,
    BertConfig,
    ConvNextConfig,
    DebertaV2Config,
    DistilBertConfig,
    ResNetConfig,
    ViTConfig,
)

from configuration_ume import UMEConfig
from modeling_ume import UMEForVisualQuestionAnswering

VOCAB_SIZE = 60
WIDTH = 16
TRANSFORMER = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
TEXT_CONFIGS = {
    "bert": lambda: BertConfig(vocab_size=VOCAB_SIZE, **TRANSFORMER),
    "distilbert": lambda: DistilBertConfig(vocab_size=VOCAB_SIZE, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=24),
    "deberta-v2": lambda: DebertaV2Config(
        vocab_size=VOCAB_SIZE,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        **TRANSFORMER,
    ),
}
IMAGE_CONFIGS = {
    "vit": lambda: ViTConfig(image_size=32, patch_size=8, **TRANSFORMER),
    "beit": lambda: BeitConfig(image_size=32, patch_size=8, **TRANSFORMER),
    "resnet": lambda: ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"),
    "convnext": lambda: ConvNextConfig(image_size=32, hidden_sizes=[8, 12], depths=[1, 1], num_stages=2),
}


def tiny_config(text: str = "bert", image: str = "vit", **kwargs) -> UMEConfig:
    kwargs.setdefault("num_labels", 7)
    kwargs.setdefault("fusion_hidden_size", 16)
    return UMEConfig.from_encoder_configs(TEXT_CONFIGS[text](), IMAGE_CONFIGS[image](), **kwargs)


def tiny_model(text: str = "bert", image: str = "vit", seed: int = 0, **kwargs) -> UMEForVisualQuestionAnswering:
    torch.manual_seed(seed)
    return UMEForVisualQuestionAnswering(tiny_config(text, image, **kwargs)).eval()


def tiny_batch(batch_size: int = 3, num_images: int = 2, length: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Questions of several lengths about fewer images; the padding holds real token ids, which must not matter."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([length - (i % 3) for i in range(batch_size)])
    return {
        "input_ids": torch.randint(5, VOCAB_SIZE, (batch_size, length), generator=generator),
        "attention_mask": (torch.arange(length) < lengths[:, None]).long(),
        "pixel_values": torch.randn(num_images, 3, 32, 32, generator=generator),
        "image_index": torch.arange(batch_size) % num_images,
    }


@pytest.fixture(autouse=True)
def same_random_numbers():
    torch.manual_seed(0)
