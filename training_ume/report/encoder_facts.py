"""The encoders that UME is tested with: a tiny config of each, and a table of what each gives.

`encoder_facts` builds every encoder from its config and looks; the docs' table is rendered from it, and the tests go
through the same lists.
"""

import math
from collections.abc import Callable

import torch
import transformers
from transformers import PretrainedConfig

from configuration_ume import UMEConfig
from modeling_ume.encoders_ume import EncoderAdapter, build_encoder
from modeling_ume.simple_encoders_ume import UMELSTMConfig, UMEVGGConfig

VOCAB_SIZE = 60
WIDTH = 16
IMAGE_SIZE = 64  # of the configs
STANDARD_SIZE = 224  # of the table
TRANSFORMER = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **TRANSFORMER}
VIT = {"image_size": IMAGE_SIZE, "patch_size": 16, **TRANSFORMER}
DINOV2 = {**VIT, "image_size": 56, "patch_size": 14}
T5GEMMA = {"num_key_value_heads": 2, "head_dim": 8, **TEXT}

SWIN = {
    "image_size": IMAGE_SIZE,
    "patch_size": 4,
    "embed_dim": 4,
    "depths": [1, 1, 1, 1],
    "num_heads": [2, 2, 2, 2],
    "window_size": 2,
}

STAGES = {"hidden_sizes": [4, 8, 8, 16], "depths": [1, 1, 1, 1]}


def _config(name: str, **fields) -> Callable[[], PretrainedConfig]:
    """Makes the config by the name of its class; AttributeError where this release of transformers lacks it."""
    return lambda: getattr(transformers, name)(**fields)


TEXT_ENCODERS: dict[str, Callable[[], PretrainedConfig]] = {
    "BERT": _config("BertConfig", **TEXT),
    "RoBERTa": _config("RobertaConfig", max_position_embeddings=40, **TEXT),
    "XLM-R": _config("XLMRobertaConfig", max_position_embeddings=40, **TEXT),
    "ALBERT": _config("AlbertConfig", embedding_size=8, **TEXT),
    "DistilBERT": _config("DistilBertConfig", vocab_size=VOCAB_SIZE, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=24),
    "ELECTRA": _config("ElectraConfig", embedding_size=8, **TEXT),
    "DeBERTa": _config("DebertaConfig", relative_attention=True, pos_att_type=["p2c", "c2p"], **TEXT),
    "DeBERTa-v2/v3": _config(
        "DebertaV2Config",
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        **TEXT,
    ),
    "MPNet": _config("MPNetConfig", max_position_embeddings=40, **TEXT),
    "ModernBERT": _config("ModernBertConfig", cls_token_id=1, sep_token_id=2, **TEXT),
    "XLNet": _config("XLNetConfig", vocab_size=VOCAB_SIZE, d_model=WIDTH, n_layer=2, n_head=2, d_inner=24),
    "T5": _config("T5Config", vocab_size=VOCAB_SIZE, d_model=WIDTH, d_kv=8, d_ff=24, num_layers=2, num_heads=2),
    "T5Gemma": _config("T5GemmaConfig", encoder=T5GEMMA, decoder=T5GEMMA, vocab_size=VOCAB_SIZE),
    "GPT-2": _config(
        "GPT2Config", vocab_size=VOCAB_SIZE, n_embd=WIDTH, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
    ),
    "LLaMA": _config("LlamaConfig", num_key_value_heads=2, **TEXT),
    "Qwen2": _config("Qwen2Config", num_key_value_heads=2, **TEXT),
    "CLIP text": _config("CLIPTextConfig", **TEXT),
    "SigLIP text": _config("SiglipTextConfig", **TEXT),
    "LSTM (deeper LSTM Q)": lambda: UMELSTMConfig(vocab_size=VOCAB_SIZE, embedding_size=8, hidden_size=8),
    "GRU": lambda: UMELSTMConfig(
        vocab_size=VOCAB_SIZE, embedding_size=8, hidden_size=8, num_layers=1, cell="gru", bidirectional=True
    ),
}

IMAGE_ENCODERS: dict[str, Callable[[], PretrainedConfig]] = {
    "ViT": _config("ViTConfig", **VIT),
    "DeiT": _config("DeiTConfig", **VIT),
    "BEiT": _config("BeitConfig", **VIT),
    "Swin": _config("SwinConfig", **SWIN),
    "Swinv2": _config("Swinv2Config", **SWIN),
    "ConvNeXt": _config("ConvNextConfig", image_size=IMAGE_SIZE, **STAGES),
    "ConvNeXtV2": _config("ConvNextV2Config", image_size=IMAGE_SIZE, **STAGES),
    "ResNet": _config("ResNetConfig", embedding_size=8, layer_type="basic", **STAGES),
    "RegNet": _config("RegNetConfig", embedding_size=8, groups_width=4, **STAGES),
    "EfficientNet": _config(
        "EfficientNetConfig", image_size=IMAGE_SIZE, width_coefficient=0.25, depth_coefficient=0.2, hidden_dim=320
    ),
    "MobileNetV1": _config("MobileNetV1Config", image_size=IMAGE_SIZE, depth_multiplier=0.25, min_depth=4),
    "MobileNetV2": _config("MobileNetV2Config", image_size=IMAGE_SIZE, depth_multiplier=0.25, min_depth=4),
    "MobileViT": _config(
        "MobileViTConfig",
        image_size=IMAGE_SIZE,
        hidden_sizes=[8, 8, 16],
        neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 16],
        num_attention_heads=2,
    ),
    "PVTv2": _config("PvtV2Config", image_size=IMAGE_SIZE, num_attention_heads=[1, 1, 1, 1], **STAGES),
    "DINOv2": _config("Dinov2Config", **DINOV2),
    "DINOv2 with registers": _config("Dinov2WithRegistersConfig", num_register_tokens=4, **DINOV2),
    "DINOv3": _config("DINOv3ViTConfig", num_register_tokens=4, **VIT),
    "DINOv3 ConvNeXt": _config("DINOv3ConvNextConfig", image_size=IMAGE_SIZE, **STAGES),
    "CLIP vision": _config("CLIPVisionConfig", **VIT),
    "SigLIP vision": _config("SiglipVisionConfig", **VIT),
    "YOLOS": _config("YolosConfig", num_detection_tokens=100, **{**VIT, "image_size": [IMAGE_SIZE, IMAGE_SIZE]}),
    "ViTMAE": _config("ViTMAEConfig", **VIT),
    "Data2Vec-vision": _config("Data2VecVisionConfig", **VIT),
    "timm (TimmWrapper)": _config("TimmWrapperConfig", architecture="resnet10t", image_size=IMAGE_SIZE),
    "VGG-16": lambda: UMEVGGConfig(image_size=IMAGE_SIZE, hidden_sizes=[4, 4, 8, 8, 8], fc_size=12),
    "VGG-19": lambda: UMEVGGConfig(depth=19, image_size=IMAGE_SIZE, hidden_sizes=[4, 4, 8, 8, 8], fc_size=12),
}


def available(encoders: dict[str, Callable[[], PretrainedConfig]]) -> list[str]:
    """The names of those encoders that the installed packages can build: not every release has every model."""
    names = []
    for name, make in encoders.items():
        try:
            build_encoder(make(), "auto")
        except (AttributeError, ImportError):
            continue
        names.append(name)
    return names


@torch.no_grad()
def encoder_facts() -> list[dict]:
    """What every encoder of the lists gives, found by building it from its tiny config and running it.

    Returns:
        One dict an encoder that can be built here, text first: `name`; `model_type`; `modality` (`"text"`,
        `"vision"`); `tokens`, the shape of one example's tokens as text: `"L × D"`, or for an image of 224 pixels with
        the tokens before the grid counted, `"(1 + 14·14) × D"`; `pooled`, what `"auto"` reads as its summary; `sdpa`
        and `gradient_checkpointing` (bool), whether it supports them.
    """
    facts = []
    for modality, encoders in (("text", TEXT_ENCODERS), ("vision", IMAGE_ENCODERS)):
        for name in available(encoders):
            # As a UME model holds it: of a dual or an encoder-decoder config, the half that reads.
            config = getattr(UMEConfig(**{f"{modality}_config": encoders[name]()}), f"{modality}_config")
            encoder = build_encoder(config, "auto").eval()
            adapter = EncoderAdapter(encoder, modality, "auto")
            if modality == "text":
                tokens = "L × D"
            else:
                stream = adapter.vision(encoder, torch.zeros(1, 3, STANDARD_SIZE, STANDARD_SIZE))
                rows, columns = stream.grid
                num_special = stream.states.shape[1] - math.prod(stream.grid)
                tokens = f"({num_special} + {rows}·{columns}) × D" if num_special else f"{rows}·{columns} × D"
            facts.append(
                {
                    "name": name,
                    "model_type": config.model_type,
                    "modality": modality,
                    "tokens": tokens,
                    "pooled": adapter.pooling,
                    "sdpa": bool(encoder._supports_sdpa),
                    "gradient_checkpointing": bool(encoder.supports_gradient_checkpointing),
                }
            )
    return facts
