"""Every weight of a pretrained encoder that is read comes from the file; one that is not there is named."""

import json
import shutil

import pytest
import torch
import transformers
from conftest import IMAGE_CONFIGS, TEXT_CONFIGS, TRANSFORMER, tiny_batch, tiny_config, tiny_model
from safetensors.torch import load_file, save_file

from modeling_ume import UMEConfig, UMEForImageTextRetrieval, UMEForVisualQuestionAnswering, UMEModel
from modeling_ume.encoders_ume import build_encoder
from modeling_ume.loading_ume import load_encoder

VIT = {"image_size": 16, "patch_size": 8, **TRANSFORMER}
TEXT = {"vocab_size": 60, "max_position_embeddings": 20, **TRANSFORMER}
CROSS = {"encoder_hidden_size": TRANSFORMER["hidden_size"], **TEXT}


def composite(kind: str):
    """A model of transformers, or of this package, that holds a text and an image encoder."""
    head, _, detail = kind.partition(" ")
    if head == "VisionTextDualEncoder":
        image = transformers.CLIPVisionConfig(**VIT) if detail else transformers.ViTConfig(**VIT)
        config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
            image, transformers.BertConfig(**TEXT)
        )
        return transformers.VisionTextDualEncoderModel(config)
    if head.startswith("Blip"):
        return getattr(transformers, head)(transformers.BlipConfig(text_config=CROSS, vision_config=VIT))
    if head == "Flava":
        halves = {"text_config": TEXT, "image_config": VIT, "multimodal_config": TRANSFORMER}
        return transformers.FlavaModel(transformers.FlavaConfig(**halves, hidden_size=16))
    if head == "GroupViT":
        groups = {"patch_size": 4, "depths": [1, 1], "num_group_tokens": [2, 0], "num_output_groups": [2, 2]}
        config = transformers.GroupViTConfig(text_config=TEXT, vision_config={**VIT, **groups})
        return transformers.GroupViTModel(config)
    if head == "Llava":
        text = transformers.LlamaConfig(num_key_value_heads=2, **TEXT)
        config = transformers.LlavaConfig(text_config=text, vision_config=transformers.CLIPVisionConfig(**VIT))
        return transformers.LlavaForConditionalGeneration(config)
    if head.startswith("UME"):
        model = {
            "UMEModel": UMEModel,
            "UMEVQA": UMEForVisualQuestionAnswering,
            "UMERetrieval": UMEForImageTextRetrieval,
        }
        return model[head](tiny_config(fusion="concat"))
    text = {"project_dim": 16, **TEXT} if head == "AltCLIP" else TEXT
    config = getattr(transformers, f"{head}Config")(text_config=text, vision_config=VIT)
    return getattr(transformers, f"{head}Model")(config)


@pytest.mark.parametrize(
    "kind",
    [
        "VisionTextDualEncoder", "VisionTextDualEncoder of CLIP's", "BlipForQuestionAnswering", "BlipModel",
        "BlipForConditionalGeneration", "AltCLIP", "ChineseCLIP", "CLIPSeg", "GroupViT", "Flava", "Llava", "UMEModel",
        "UMEVQA", "UMERetrieval",
    ],
)  # fmt: skip
def test_an_encoder_out_of_a_composite_has_its_weights(tmp_path, kind):
    source = composite(kind)
    source.save_pretrained(tmp_path)
    held = source.state_dict()
    for modality in ("text", "vision"):
        encoder, pooling = load_encoder(str(tmp_path), modality, "auto")
        assert pooling == "auto"
        own = {name: value for name, value in encoder.state_dict().items() if value.is_floating_point()}
        # The place at which they all lie in the composite, whatever it is called there.
        places = [name.removesuffix(next(iter(own))) for name in held if name.endswith(next(iter(own)))]
        assert any(
            all(torch.equal(held.get(place + name, torch.empty(0)), value) for name, value in own.items())
            for place in places
        )
    # Blip's text model and its decoder are alike; what reads questions is the text model.
    if kind == "BlipForQuestionAnswering":
        text = load_encoder(str(tmp_path), "text", "auto")[0].state_dict()
        assert all(torch.equal(value, held[f"text_encoder.{name}"]) for name, value in text.items())


@pytest.mark.parametrize("modality", ["text", "vision"])
def test_a_composite_without_halves_is_refused(tmp_path, modality):
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**VIT), transformers.BertConfig(is_decoder=True, add_cross_attention=True, **TEXT)
    )
    transformers.VisionEncoderDecoderModel(config).save_pretrained(tmp_path / "captions")
    transformers.ViltModel(transformers.ViltConfig(**{**TEXT, **VIT})).save_pretrained(tmp_path / "vilt")
    for name, said in (("captions", "no encoder that transformers can build alone"), ("vilt", "does not run on")):
        with pytest.raises(ValueError, match=said):
            load_encoder(str(tmp_path / name), modality, "auto")


@pytest.fixture
def encoders(tmp_path):
    for name, config in (("text", TEXT_CONFIGS["bert"]()), ("image", IMAGE_CONFIGS["vit"]())):
        build_encoder(config, "auto").save_pretrained(tmp_path / name)
    return tmp_path / "text", tmp_path / "image"


def edit(folder, change) -> None:
    """Rewrites a checkpoint's weights; `change` returns None for a weight that goes."""
    file = folder / "model.safetensors"
    changed = {name: change(name, value) for name, value in load_file(file).items()}
    save_file({k: v.contiguous() for k, v in changed.items() if v is not None}, file, metadata={"format": "pt"})


def join(encoders, **given):
    return UMEForVisualQuestionAnswering.from_encoders_pretrained(
        *map(str, encoders), fusion="concat", num_labels=3, **given
    )


def test_a_pooler_that_is_not_in_the_file_is_an_error(encoders):
    for modality in ("text", "vision"):
        with pytest.raises(ValueError, match=rf"pooler\.dense\.bias, .*choose {modality}_pooling='auto'"):
            join(encoders, **{f"{modality}_pooling": "pooler"})
    assert [join(encoders).config.text_pooling, join(encoders).config.vision_pooling] == ["auto", "auto"]


def test_auto_takes_something_else_where_a_fixed_pooler_is_not_in_the_file(tmp_path, encoders):
    # SqueezeBERT always has its pooler, and so has ChineseCLIP's image half: a norm after the class token.
    text = transformers.SqueezeBertModel(
        transformers.SqueezeBertConfig(embedding_size=16, q_groups=2, k_groups=2, v_groups=2, **TEXT)
    )
    image = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VIT))
    text.save_pretrained(tmp_path / "squeeze")
    image.save_pretrained(tmp_path / "siglip")
    both = tmp_path / "squeeze", tmp_path / "siglip"
    assert join(both).config.text_pooling == "auto"
    for folder in both:
        edit(folder, lambda name, value: None if ".head." in f".{name}" or "pooler" in name else value)
    model = join(both)
    assert [model.config.text_pooling, model.config.vision_pooling] == ["cls", "mean"]
    model.save_pretrained(tmp_path / "joined")
    again = UMEForVisualQuestionAnswering.from_pretrained(tmp_path / "joined")
    batch = {**tiny_batch(), "pixel_values": torch.randn(2, 3, 16, 16)}
    assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_missing_weights_of_any_kind_are_named(tmp_path, encoders):
    for number, (part, weight) in enumerate(
        [(0, "embeddings.word_embeddings.weight"), (0, "encoder.layer.1.output.LayerNorm.bias"), (1, "cls_token")]
    ):
        copies = [shutil.copytree(folder, tmp_path / f"{number}" / folder.name) for folder in encoders]
        edit(copies[part], lambda name, value, weight=weight: None if name.endswith(weight) else value)
        with pytest.raises(ValueError, match=f"lacks weights.*{weight}.*take a checkpoint that has them"):
            join(copies)
    # Statistics are weights too; how many batches they are of is none.
    resnet = build_encoder(IMAGE_CONFIGS["resnet"](), "auto")
    resnet.save_pretrained(tmp_path / "resnet")
    edit(tmp_path / "resnet", lambda name, value: None if name.endswith("num_batches_tracked") else value)
    join((encoders[0], tmp_path / "resnet"))
    edit(tmp_path / "resnet", lambda name, value: None if name.endswith("running_var") else value)
    with pytest.raises(ValueError, match=r"running_var.* and \d+ more"):
        join((encoders[0], tmp_path / "resnet"))


def test_weights_of_another_shape_are_named(encoders):
    for given in ({"text_vocab_size": 61}, {"vision_image_size": 64}, {"text_intermediate_size": 25}):
        for more in ({}, {"ignore_mismatched_sizes": True}):
            with pytest.raises(ValueError, match=r"other shapes: .*(embeddings|dense|fc1)"):
                join(encoders, **given, **more)


def test_layers_that_are_not_in_the_file_are_named_and_fewer_are_fine(encoders):
    with pytest.raises(ValueError, match=r"layer\.2\."):
        join(encoders, text_num_hidden_layers=3)
    assert len(join(encoders, text_num_hidden_layers=1).ume.text_model.encoder.layer) == 1


def test_weights_that_nothing_reads_may_be_missing(tmp_path, encoders):
    dino = transformers.Dinov2Model(transformers.Dinov2Config(**VIT))
    dino.save_pretrained(tmp_path / "dino")
    edit(tmp_path / "dino", lambda name, value: None if "mask_token" in name else value)
    join((encoders[0], tmp_path / "dino"))


# --- checkpoints of this package ---


def test_a_checkpoint_with_a_hole_is_refused(tmp_path):
    tiny_model(fusion="co_attention").save_pretrained(tmp_path / "whole")
    for number, end in enumerate(
        [
            "text_model.embeddings.LayerNorm.weight",
            "vision_model.embeddings.cls_token",
            "fusion.project.streams.0.linear.weight",
        ]
    ):
        names = [name for name in load_file(tmp_path / "whole" / "model.safetensors") if name.endswith(end)]
        folder = shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        edit(folder, lambda name, value, end=end: None if name.endswith(end) else value)
        assert names, end
        for model_class in (UMEForVisualQuestionAnswering, UMEModel):
            with pytest.raises(ValueError, match=f"lacks weights of the model that it is of.*{end}"):
                model_class.from_pretrained(folder)
    folder = shutil.copytree(tmp_path / "whole", tmp_path / "headless")
    edit(folder, lambda name, value: None if name.startswith("classifier") else value)
    with pytest.raises(ValueError, match=r"classifier\.bias, classifier\.weight"):
        UMEForVisualQuestionAnswering.from_pretrained(folder)
    UMEModel.from_pretrained(folder)  # which has none
    # Other answers want another classifier; an encoder of another shape is no answer.
    edit(folder, lambda name, value: value[:8] if "patch_embeddings.projection.weight" in name else value)
    with pytest.raises(ValueError, match=r"patch_embeddings\.projection\.weight"):
        UMEModel.from_pretrained(folder, ignore_mismatched_sizes=True)


def test_an_encoder_may_be_changed_on_purpose(tmp_path):
    saved = tiny_model()
    saved.save_pretrained(tmp_path)
    config = UMEConfig.from_pretrained(tmp_path)
    config.text_config.vocab_size = 61
    with pytest.raises(RuntimeError, match="mismatch"):
        UMEForVisualQuestionAnswering.from_pretrained(tmp_path, config=config)
    loaded = UMEForVisualQuestionAnswering.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    weights, other = saved.state_dict(), loaded.state_dict()
    changed = [name for name in weights if weights[name].shape != other[name].shape]
    assert changed == ["ume.text_model.embeddings.word_embeddings.weight"]
    assert all(torch.equal(weights[name], other[name]) for name in weights.keys() - changed)


def test_another_head_may_be_new(tmp_path):
    config = tiny_config(fusion="concat")
    for number, (saved, loaded) in enumerate(
        [
            (UMEForImageTextRetrieval, UMEForVisualQuestionAnswering), (UMEModel, UMEForVisualQuestionAnswering),
            (UMEForVisualQuestionAnswering, UMEForImageTextRetrieval), (UMEForImageTextRetrieval, UMEModel),
        ]
    ):  # fmt: skip
        source = saved(config)
        source.save_pretrained(folder := tmp_path / str(number))
        model, info = loaded.from_pretrained(folder, output_loading_info=True)
        assert any("model" not in name for name in info["missing_keys"])
        for name, value in source.base_model.text_model.state_dict().items():
            assert torch.equal(model.base_model.text_model.state_dict()[name], value)
    # A config that was changed on purpose, too.
    tiny_model(fusion="co_attention").save_pretrained(tmp_path / "one")
    load = UMEForVisualQuestionAnswering.from_pretrained
    assert load(tmp_path / "one", fusion_num_layers=2).config.fusion_num_layers == 2
    fields = json.loads((tmp_path / "one" / "config.json").read_text())
    assert load(tmp_path / "one", fusion="concat").config.fusion == "concat" != fields["fusion"]
    with pytest.raises(ValueError, match=r"layer\.2\."):
        load(tmp_path / "one", text_config={"num_hidden_layers": 3})
