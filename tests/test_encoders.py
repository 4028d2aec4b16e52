"""The encoders: every one of the lists in encoder_facts, what it gives, and what it says when it cannot."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import CONFIG_MAPPING

from configuration_ume import UMEConfig
from modeling_ume import UMEForVisualQuestionAnswering
from modeling_ume.encoders_ume import EncoderAdapter, build_encoder, encoder_class
from modeling_ume.loading_ume import load_config, load_encoder
from modeling_ume.probe_ume import _unread, shape_of
from modeling_ume.simple_encoders_ume import UMELSTMConfig, UMELSTMModel, UMEVGGConfig, UMEVGGModel
from modeling_ume.text_ume import position_limit
from training_ume.report.encoder_facts import (
    IMAGE_ENCODERS,
    IMAGE_SIZE,
    TEXT,
    TEXT_ENCODERS,
    TRANSFORMER,
    VIT,
    VOCAB_SIZE,
    available,
    encoder_facts,
)

TEXTS, IMAGES = available(TEXT_ENCODERS), available(IMAGE_ENCODERS)
# Every encoder at least once, each text encoder with another kind of image encoder.
PAIRS = [(TEXTS[i % len(TEXTS)], IMAGES[i % len(IMAGES)]) for i in range(max(len(TEXTS), len(IMAGES)))]


def joint_config(text="BERT", image="ViT", **fields) -> UMEConfig:
    fields = {"fusion": "ume", "fusion_hidden_size": 8, "num_labels": 5, **fields}
    return UMEConfig.from_encoder_configs(TEXT_ENCODERS[text](), IMAGE_ENCODERS[image](), **fields)


def joint_batch() -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.randint(3, VOCAB_SIZE, (3, 6)),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]]),
        "pixel_values": torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE),
        "image_index": torch.tensor([0, 1, 1]),
    }


def text_config(name):
    return UMEConfig(text_config=TEXT_ENCODERS[name]()).text_config


def encoder_and_adapter(config, modality, pooling="auto"):
    encoder = build_encoder(config, pooling).eval()
    return encoder, EncoderAdapter(encoder, modality, pooling)


@torch.no_grad()
def logits(model, batch):
    return model(**batch).logits


def without_gradient(model, batch) -> list[str]:
    """Trains one step's worth: the names of what should train and gets no gradient."""
    model.zero_grad()
    model.train()(**batch, labels=torch.tensor([0, 1, 4])).loss.backward()
    model.eval()
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(("text", "image"), PAIRS)
def test_every_encoder_trains_saves_and_reloads_with_equal_logits(text, image, tmp_path):
    model, batch = UMEForVisualQuestionAnswering(joint_config(text, image)), joint_batch()
    assert without_gradient(model, batch) == []
    model.save_pretrained(tmp_path)
    reloaded = UMEForVisualQuestionAnswering.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(reloaded, batch), logits(model, batch), rtol=0, atol=1e-6)
    assert without_gradient(reloaded, batch) == []


# --- text ---


@torch.no_grad()
@pytest.mark.parametrize("name", TEXTS)
def test_padding_changes_neither_tokens_nor_summary(name):
    encoder, adapter = encoder_and_adapter(text_config(name), "text")
    ids, mask = torch.randint(3, VOCAB_SIZE, (2, 6)), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    stream = adapter.text(encoder, ids, mask, None)
    assert stream.states.shape == (2, 6, adapter.width)
    assert stream.pooled.shape == (2, adapter.pooled_width)
    longer = torch.cat([ids.where(mask.bool(), 59), torch.full((2, 3), 58)], dim=1)
    padded = adapter.text(encoder, longer, nn.functional.pad(mask, (0, 3)), None)
    torch.testing.assert_close(padded.pooled, stream.pooled, rtol=0, atol=2e-6)
    torch.testing.assert_close(padded.states[:, :6][mask.bool()], stream.states[mask.bool()], rtol=0, atol=2e-6)
    assert (padded.pooled[0] - padded.pooled[1]).abs().max() > 1e-4


@torch.no_grad()
def test_token_types_reach_an_encoder_that_has_them_and_no_other():
    ids, types = torch.randint(3, VOCAB_SIZE, (2, 6)), torch.tensor([[0, 0, 0, 1, 1, 1], [0] * 6])
    encoder, adapter = encoder_and_adapter(text_config("BERT"), "text")
    states = adapter.text(encoder, ids, torch.ones_like(ids), types).states
    torch.testing.assert_close(states, encoder(ids, token_type_ids=types).last_hidden_state)
    assert (states[0] - adapter.text(encoder, ids, torch.ones_like(ids), None).states[0]).abs().max() > 1e-4
    encoder, adapter = encoder_and_adapter(text_config("DistilBERT"), "text")  # takes none
    plain = adapter.text(encoder, ids, torch.ones_like(ids), None).states
    assert torch.equal(adapter.text(encoder, ids, torch.ones_like(ids), types).states, plain)


@torch.no_grad()
def test_attentions_that_are_asked_for_come_whatever_the_implementation():
    model = UMEForVisualQuestionAnswering(joint_config()).eval()
    assert model.ume.text_model.config._attn_implementation == "sdpa"
    output = model(**joint_batch(), output_attentions=True)
    assert len(output.text_attentions) == len(output.vision_attentions) == TRANSFORMER["num_hidden_layers"]
    assert model.ume.text_model.config._attn_implementation == "sdpa"


@torch.no_grad()
@pytest.mark.parametrize("return_dict", [True, False])
def test_what_an_encoder_returns_has_names_whatever_its_config_wants(return_dict):
    ids, images = torch.randint(3, VOCAB_SIZE, (2, 6)), torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    for config, read in (
        (text_config("BERT"), lambda *own: own[1].text(own[0], ids, None, None)),
        (IMAGE_ENCODERS["ViT"](), lambda *own: own[1].vision(own[0], images)),
    ):
        encoder, adapter = encoder_and_adapter(config, "text" if "vocab_size" in config.to_dict() else "vision")
        expected = read(encoder, adapter).states
        encoder.config.return_dict = return_dict
        assert torch.equal(read(encoder, adapter).states, expected)


@torch.no_grad()
def test_the_last_word_is_the_last_real_one_wherever_the_padding_stands():
    encoder, adapter = encoder_and_adapter(text_config("GPT-2"), "text", "last")
    ids = torch.randint(3, VOCAB_SIZE, (3, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]])
    stream = adapter.text(encoder, ids, mask, None)
    assert torch.equal(stream.pooled, stream.states[[0, 1, 2], [5, 3, 4]])


@torch.no_grad()
@pytest.mark.parametrize(("name", "limit"), [("RoBERTa", 10), ("BERT", 12), ("GPT-2", 12)])
def test_a_question_as_long_as_the_table_of_positions_is_read_and_a_longer_one_is_refused(name, limit):
    config = TEXT_ENCODERS[name]()
    config.max_position_embeddings, config.pad_token_id = 12, 1  # RoBERTa's first two rows stand for no position
    encoder, adapter = encoder_and_adapter(config, "text")
    assert position_limit(encoder) == limit
    ids = torch.randint(3, VOCAB_SIZE, (1, limit))
    assert adapter.text(encoder, ids, None, None).states.shape[1] == limit
    longer = nn.functional.pad(ids, (0, 1), value=5)
    with pytest.raises(ValueError, match=f"A question has {limit + 1} tokens, but the text encoder .* reads {limit}:"):
        adapter.text(encoder, longer, None, None)


@torch.no_grad()
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_recurrent_encoder_skips_padding_wherever_it_stands(cell, bidirectional):
    config = UMELSTMConfig(VOCAB_SIZE, embedding_size=6, hidden_size=8, cell=cell, bidirectional=bidirectional)
    model = UMELSTMModel(config).eval()
    ids = torch.randint(1, VOCAB_SIZE, (2, 4))
    plain = model(ids)
    places = torch.tensor([0, 2, 3, 6])  # padding before, between and behind
    scattered, mask = torch.full((2, 8), 7), torch.zeros(2, 8, dtype=torch.long)
    scattered[:, places], mask[:, places] = ids, 1
    padded = model(scattered, mask)
    torch.testing.assert_close(padded.pooler_output, plain.pooler_output)
    torch.testing.assert_close(padded.last_hidden_state[:, places], plain.last_hidden_state)
    assert padded.last_hidden_state[:, [1, 4, 5, 7]].abs().max() == 0
    directions = 2 if bidirectional else 1
    assert plain.pooler_output.shape == (2, 2 * directions * 8 * (2 if cell == "lstm" else 1))
    embedded = model(attention_mask=mask, inputs_embeds=model.embeddings(scattered))
    assert torch.equal(embedded.pooler_output, padded.pooler_output)
    with pytest.raises(ValueError, match="reads either input_ids or inputs_embeds"):
        model(ids, inputs_embeds=model.embeddings(ids))
    nothing = model(ids, torch.zeros_like(ids))
    assert nothing.pooler_output.abs().max() == nothing.last_hidden_state.abs().max() == 0


@torch.no_grad()
def test_the_summary_of_deeper_lstm_q_is_all_layers_last_hidden_and_cell_states():
    model = UMELSTMModel(UMELSTMConfig(VOCAB_SIZE, embedding_size=6, hidden_size=8)).eval()
    ids = torch.randint(1, VOCAB_SIZE, (3, 5))
    states, (hidden, cell) = model.rnn(model.embeddings(ids))
    output = model(ids)
    expected = torch.cat([hidden[0], hidden[1], cell[0], cell[1]], dim=-1)
    torch.testing.assert_close(output.pooler_output, expected)
    torch.testing.assert_close(output.last_hidden_state, states)
    assert UMELSTMConfig().num_layers * 2 * UMELSTMConfig().hidden_size == 2048


@pytest.mark.parametrize(
    "make",
    [
        lambda: UMELSTMModel(UMELSTMConfig(VOCAB_SIZE, embedding_size=6, hidden_size=8)),
        lambda: UMEVGGModel(UMEVGGConfig(hidden_sizes=[2] * 5, fc_size=6)),
    ],
)
def test_the_simple_encoders_refuse_to_compute_layers_again(make):
    with pytest.raises(ValueError, match=r"does not support (gradient|activation) checkpointing"):
        make().gradient_checkpointing_enable()


@torch.no_grad()
def test_the_simple_encoders_start_from_weights_of_a_known_size():
    text = UMELSTMModel(UMELSTMConfig(2000, embedding_size=64, hidden_size=96, pad_token_id=3))
    image = UMEVGGModel(UMEVGGConfig(hidden_sizes=[8, 8, 16, 16, 16], fc_size=32))
    for model in (text, image):
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
        for module in model.modules():
            model._init_weights(module)
    table = text.embeddings.weight
    assert float(table.std()) == pytest.approx(0.1, rel=0.05)
    assert (table == 0).all(1).nonzero().tolist() == [[3]]
    for name, parameter in text.rnn.named_parameters():
        if "weight_ih" in name:
            rows, columns = parameter.shape
            assert 0.95 < float(parameter.abs().max()) / math.sqrt(6 / (rows + columns)) <= 1
        elif "weight_hh" in name:
            torch.testing.assert_close(parameter.T @ parameter, torch.eye(96), rtol=0, atol=1e-4)
        else:
            assert (parameter == 0).all()
    for layer in (module for module in image.modules() if isinstance(module, nn.Conv2d)):
        fan_out = layer.out_channels * math.prod(layer.kernel_size)
        assert float(layer.weight.std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.25)
        assert (layer.bias == 0).all()


def test_word_embeddings_start_from_another_models():
    bert = build_encoder(TEXT_ENCODERS["BERT"](), "auto")
    model = UMELSTMModel(UMELSTMConfig(VOCAB_SIZE, embedding_size=TRANSFORMER["hidden_size"]))
    model.load_embeddings_from(bert)
    assert torch.equal(model.embeddings.weight, bert.get_input_embeddings().weight)
    assert model.embeddings.weight.requires_grad
    with pytest.raises(ValueError, match=r"is \[60, 16\], but this model's is \[60, 300\]: set vocab_size"):
        UMELSTMModel(UMELSTMConfig(VOCAB_SIZE)).load_embeddings_from(bert)
    with pytest.raises(ValueError, match="cannot be taken from a str"):
        model.load_embeddings_from("bert-base-uncased")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UMELSTMConfig(cell="rnn"), "cell='rnn' is not known: choose 'lstm' or 'gru'"),
        (lambda: UMELSTMConfig(num_layers=0), "num_layers=0 is impossible"),
        (lambda: UMELSTMConfig(vocab_size=10, pad_token_id=10), "pad_token_id=10 is not an id of a vocabulary"),
        (lambda: UMEVGGConfig(depth=11), "depth=11 is not known: choose one of 16, 19"),
        (lambda: UMEVGGConfig(hidden_sizes=[8, 8]), "one width for each of the five stages"),
        (lambda: UMEVGGConfig(dropout=1.0), r"dropout=1\.0 is impossible"),
        (lambda: UMELSTMConfig(dropout=-0.5), r"dropout=-0\.5 is impossible"),
    ],
)
def test_an_impossible_simple_encoder_names_the_field(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_encoder_with_a_pooler_is_not_taken_for_its_twin_without_one():
    config = TEXT_ENCODERS["BERT"]()
    for pooling, width in (
        ("pooler", TRANSFORMER["hidden_size"]),
        ("auto", None),
        ("pooler", TRANSFORMER["hidden_size"]),
    ):
        assert shape_of(build_encoder(config, pooling), "text").pooled_width == width


def test_siglips_summary_that_pools_padding_is_refused():
    with pytest.raises(ValueError, match="text_pooling='pooler': the encoder 'siglip_text_model' pools padding too"):
        encoder_and_adapter(text_config("SigLIP text"), "text", "pooler")


# --- images ---


def usual_size(config) -> int:
    size = config.to_dict().get("image_size") or IMAGE_SIZE
    return size if isinstance(size, int) else size[0]


@pytest.mark.parametrize("name", IMAGES)
def test_the_grid_lies_over_the_image_row_by_row(name):
    config = IMAGE_ENCODERS[name]()
    encoder, adapter = encoder_and_adapter(config, "vision")
    height = usual_size(config)
    images = torch.randn(2, 3, height, 2 * height, requires_grad=True)
    stream = adapter.vision(encoder, images)
    rows, columns = stream.grid
    assert columns == 2 * rows
    cells = stream.states[:, -rows * columns :].unflatten(1, stream.grid)  # [2, H, W, D]
    if (
        encoder(images[:, :, :, :height]).last_hidden_state.ndim == 4
    ):  # a feature map, whose rows and columns are given
        assert stream.states.shape[1] == rows * columns
        torch.testing.assert_close(cells, encoder(images).last_hidden_state.permute(0, 2, 3, 1))
        return
    # The top right cell hears the top right quarter most, the bottom left cell the bottom left one.
    for row, column, quarter in ((0, columns - 1, 1), (rows - 1, 0, 2)):
        cell = cells[:, row, column] * torch.randn(adapter.width)
        (gradient,) = torch.autograd.grad(cell.sum(), images, retain_graph=True)
        heard = nn.functional.adaptive_avg_pool2d(gradient.square().sum((0, 1))[None], 2).flatten()
        assert heard.argmax() == quarter


@torch.no_grad()
@pytest.mark.parametrize("name", ["ViT", "DeiT", "YOLOS", "ResNet"])
def test_the_mean_of_an_image_is_that_of_its_cells_without_special_tokens(name):
    encoder, adapter = encoder_and_adapter(IMAGE_ENCODERS[name](), "vision", "mean")
    for parameter in encoder.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    stream = adapter.vision(encoder, torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE))
    torch.testing.assert_close(stream.pooled, stream.states[:, -math.prod(stream.grid) :].mean(1))


@torch.no_grad()
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_of_another_size_gets_a_grid_of_its_own(name):
    config = IMAGE_ENCODERS[name]()
    encoder, adapter = encoder_and_adapter(config, "vision")
    size = usual_size(config)
    usual = adapter.vision(encoder, torch.randn(1, 3, size, size)).grid
    stream = adapter.vision(encoder, torch.randn(1, 3, 2 * size, 2 * size))
    assert math.prod(stream.grid) > math.prod(usual)
    assert stream.states.isfinite().all()


def test_an_encoder_that_cannot_take_another_size_says_so():
    config = transformers.LevitConfig(
        image_size=64, hidden_sizes=[8, 8, 16], num_attention_heads=[1, 1, 1], depths=[1, 1, 1], key_dim=[8, 8, 8]
    )
    encoder, adapter = encoder_and_adapter(config, "vision")
    with pytest.raises(
        ValueError, match=r"'levit' was made for images of 64×64 pixels and cannot read 96×96 .* resize"
    ):
        adapter.vision(encoder, torch.randn(1, 3, 96, 96))
    with pytest.raises(ValueError, match="images of 16×64 pixels: the least is 32×32"):
        build_encoder(IMAGE_ENCODERS["VGG-16"](), "auto")(torch.zeros(1, 3, 16, 64))


@torch.no_grad()
def test_the_class_token_of_yolos_is_its_summary_and_its_detection_tokens_stay_out_of_the_grid():
    encoder, adapter = encoder_and_adapter(IMAGE_ENCODERS["YOLOS"](), "vision")
    for parameter in encoder.parameters():
        parameter.normal_()  # new special tokens are all zero, and alike
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    raw, stream = encoder(images).last_hidden_state, adapter.vision(encoder, images)
    assert torch.equal(stream.pooled, raw[:, 0])
    assert torch.equal(stream.states[:, -16:], raw[:, 1:17])
    assert torch.equal(stream.states[:, 1:101], raw[:, 17:])


@torch.no_grad()
def test_vitmae_shows_every_patch_in_its_place(tmp_path):
    config = transformers.ViTMAEConfig(**VIT, mask_ratio=0.75)
    transformers.ViTMAEModel(config).save_pretrained(tmp_path)
    encoder, _ = load_encoder(str(tmp_path), "vision", "auto")
    adapter, images = EncoderAdapter(encoder, "vision", "auto"), torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    stream = adapter.vision(encoder, images)
    assert stream.grid == (4, 4)
    assert torch.equal(adapter.vision(encoder, images).states, stream.states)
    # Its blocks see the patches as its embeddings lay them out before any are hidden.
    embeddings = encoder.embeddings
    patches = embeddings.patch_embeddings(images) + embeddings.position_embeddings[:, 1:]
    noise = torch.arange(16.0)[None]
    assert torch.equal(embeddings(images, noise=noise)[0][:, 1:], patches)


def test_every_weight_that_tokens_depend_on_is_trained():
    model = UMEForVisualQuestionAnswering(joint_config()).train()
    frozen = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen <= {"pooler"}


def test_each_step_of_an_encoder_is_looked_at_once():
    class Step:
        """Joined to the next by two ways, as by a residual connection: thirty make a billion paths."""

        def __init__(self, following=None):
            self.following, self.asked = following, 0

        @property
        def next_functions(self):
            self.asked += 1
            assert self.asked == 1
            return ((self.following, 0), (self.following, 0))

    step = None
    for _ in range(30):
        step = Step(step)
    layer = nn.Linear(2, 2)
    assert _unread(layer, SimpleNamespace(grad_fn=step)) == {"weight", "bias"}
    assert _unread(layer, layer(torch.ones(2))) == set()
    assert _unread(layer, layer.bias.exp()) == {"weight"}


def test_what_is_not_read_is_not_trained_however_the_model_came_about(tmp_path):
    mask_token = "ume.vision_model.embeddings.mask_token"
    model = UMEForVisualQuestionAnswering(joint_config(image="DINOv2"))
    model.save_pretrained(tmp_path / "joint")
    model.ume.text_model.save_pretrained(tmp_path / "text")
    model.ume.vision_model.save_pretrained(tmp_path / "image")
    for made in (
        model,
        UMEForVisualQuestionAnswering.from_pretrained(tmp_path / "joint"),
        UMEForVisualQuestionAnswering.from_encoders_pretrained(
            str(tmp_path / "text"), str(tmp_path / "image"), num_labels=5
        ),
    ):
        assert [name for name, p in made.named_parameters() if not p.requires_grad] == [mask_token]


# --- checkpoints of others ---


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_each_half_of_a_dual_checkpoint_is_an_encoder(kind, tmp_path):
    dual_config = getattr(transformers, f"{kind}Config")(text_config=TEXT, vision_config=VIT)
    dual = getattr(transformers, f"{kind}Model")(dual_config).eval()
    dual.save_pretrained(tmp_path)
    model = UMEForVisualQuestionAnswering.from_encoders_pretrained(
        str(tmp_path), str(tmp_path), fusion_hidden_size=8, num_labels=5
    )
    for part in ("text_model", "vision_model"):
        own, source = getattr(model.ume, part).state_dict(), dual.state_dict()
        prefix = part + "."
        matching = {name.removeprefix(prefix): value for name, value in source.items() if name.startswith(prefix)}
        own = {name.removeprefix(prefix): value for name, value in own.items()}
        assert matching
        assert own.keys() <= matching.keys()
        assert all(torch.equal(value, matching[name]) for name, value in own.items())
    built = UMEConfig.from_encoder_configs(dual_config, dual_config, num_labels=5)
    assert built.text_config.model_type == dual_config.text_config.model_type
    assert without_gradient(model, joint_batch()) == []


@pytest.mark.parametrize("kind", ["T5", "T5Gemma"])
def test_the_encoder_of_an_encoder_decoder_checkpoint_is_taken(kind, tmp_path):
    config = TEXT_ENCODERS[kind]()
    whole = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    whole.save_pretrained(tmp_path)
    encoder, _ = load_encoder(str(tmp_path), "text", "auto")
    expected = whole.get_encoder().state_dict()
    own = {name.removeprefix("encoder."): value for name, value in encoder.state_dict().items()}
    assert all(torch.equal(own[name], value) for name, value in expected.items())
    assert not any("decoder" in name for name in encoder.state_dict())


def test_published_vgg_weights_load_by_their_names_without_timm(tmp_path):
    fields = {"hidden_sizes": [4, 4, 8, 8, 8], "fc_size": 12}
    weights = {f"features.{i}.weight": None for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}
    channels = 3
    for name, width in zip(weights, [4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 8], strict=True):
        weights[name] = torch.randn(width, channels, 3, 3)
        channels = width
    weights |= {"pre_logits.fc1.weight": torch.randn(12, 8, 7, 7), "pre_logits.fc2.weight": torch.randn(12, 12, 1, 1)}
    weights |= {name.replace("weight", "bias"): torch.randn(len(value)) for name, value in weights.items()}
    classifier = {"head.fc.weight": torch.randn(10, 12), "head.fc.bias": torch.randn(10)}
    save_file({**weights, **classifier}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    published = {"architecture": "vgg16", "num_classes": 10, "pretrained_cfg": {"input_size": [3, 224, 224]}}
    (tmp_path / "config.json").write_text(json.dumps(published))
    build_encoder(TEXT_ENCODERS["BERT"](), "auto").save_pretrained(tmp_path / "text")
    model = UMEForVisualQuestionAnswering.from_encoders_pretrained(
        str(tmp_path / "text"), str(tmp_path), vision_config=UMEVGGConfig(**fields), num_labels=5
    )
    vgg = model.ume.vision_model
    assert vgg.state_dict().keys() == weights.keys()
    assert all(torch.equal(vgg.state_dict()[name], value) for name, value in weights.items())
    # Named alone, as `timm/vgg16.tv_in1k` is, it is this repo's VGG in full size.
    assert load_config(tmp_path).to_dict() == UMEVGGConfig().to_dict()


@torch.no_grad()
def test_vgg_pools_to_fc7_and_keeps_the_grid_before_the_last_pooling():
    model = UMEVGGModel(UMEVGGConfig(hidden_sizes=[2, 2, 4, 4, 4], fc_size=6)).eval()
    images = torch.randn(2, 3, 224, 224)
    output = model(images)
    grid = model.features[:-1](images)
    assert output.last_hidden_state.shape == (2, 4, 14, 14)
    assert torch.equal(output.last_hidden_state, grid)
    fc6, fc7 = model.pre_logits["fc1"], model.pre_logits["fc2"]
    flat = nn.functional.max_pool2d(grid, 2).flatten(1)  # 7×7 cells at 224 pixels
    hidden = (flat @ fc6.weight.flatten(1).T + fc6.bias).relu()
    torch.testing.assert_close(output.pooler_output, (hidden @ fc7.weight.flatten(1).T + fc7.bias).relu())
    with torch.device("meta"):
        full = UMEVGGModel(UMEVGGConfig()), UMEVGGModel(UMEVGGConfig(depth=19))
    # Published: 138.36 and 143.67 million, of which the classifier has 4.10.
    assert [round(sum(p.numel() for p in m.parameters()) / 1e6, 2) for m in full] == [134.26, 139.57]


# --- what cannot be used ---


@pytest.mark.skipif("timm" in sys.modules or "timm (TimmWrapper)" in IMAGES, reason="timm is installed")
def test_an_encoder_that_needs_timm_says_how_to_install_it():
    with pytest.raises(ImportError, match="pip install timm"):
        UMEForVisualQuestionAnswering(joint_config(image="timm (TimmWrapper)"))


def test_a_package_that_an_encoder_needs_in_turn_is_named(monkeypatch):
    class Lazy(dict):
        def __getitem__(self, key):
            try:
                raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError("Could not import module 'TimmWrapperModel'.") from error

    config = IMAGE_ENCODERS["timm (TimmWrapper)"]()
    monkeypatch.setattr("modeling_ume.encoders_ume.MODEL_MAPPING", Lazy({type(config): None}))
    with pytest.raises(ImportError, match=r"'timm_wrapper' needs a package .* `pip install torchvision`"):
        encoder_class(config)


def _transformers(name, **fields):
    return lambda: getattr(transformers, name)(**fields)


SEQ2SEQ = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
PYRAMID = {"depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]}
REFUSED = [
    ("text", _transformers("FNetConfig", **TEXT), "'fnet' takes no attention_mask, so padding would change"),
    ("text", _transformers("Wav2Vec2Config"), "'wav2vec2' takes no input_ids: choose a model that reads text"),
    (
        "text",
        _transformers("WhisperConfig", encoder_layers=1),
        "'whisper' takes no input_ids: choose a",
    ),
    ("text", _transformers("BartConfig", **SEQ2SEQ), "encoder-decoder model_type='bart' has no encoder"),
    ("text", _transformers("LxmertConfig"), "'lxmert' does not run on input_ids and attention_mask alone"),
    (
        "vision",
        _transformers("TimesformerConfig", **VIT),
        r"'timesformer' does not run on pixel_values \[1, 3, 64, 64\]",
    ),
    (
        "vision",
        _transformers("VideoMAEConfig", **VIT),
        "'videomae' does not run on .* a model that reads single pictures",
    ),
    ("vision", _transformers("PerceiverConfig"), "'perceiver' takes no pixel_values"),
    ("vision", _transformers("DepthAnythingConfig"), "no encoder for model_type='depth_anything'"),
    ("vision", _transformers("Siglip2VisionConfig", **TRANSFORMER), "missing 2 required positional arguments"),
]


@pytest.mark.parametrize(("modality", "make", "message"), REFUSED)
def test_what_reads_something_else_is_refused_in_a_sentence(modality, make, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        encoder_and_adapter(make(), modality)


UNLISTED_TEXT = {
    "big_bird": _transformers("BigBirdConfig", **TEXT),
    "bloom": _transformers("BloomConfig", vocab_size=VOCAB_SIZE, hidden_size=16, n_layer=1, n_head=2),
    "camembert": _transformers("CamembertConfig", **TEXT),
    "ernie": _transformers("ErnieConfig", **TEXT),
    "eurobert": _transformers("EuroBertConfig", num_key_value_heads=2, **TEXT),
    "falcon": _transformers("FalconConfig", vocab_size=VOCAB_SIZE, hidden_size=16, num_attention_heads=2),
    "flava text": _transformers("FlavaTextConfig", **TEXT),
    "gemma": _transformers("GemmaConfig", num_key_value_heads=2, head_dim=8, **TEXT),
    "gemma3 text": _transformers("Gemma3TextConfig", num_key_value_heads=2, head_dim=8, **TEXT),
    "gpt_neox": _transformers("GPTNeoXConfig", **TEXT),
    "layoutlm": _transformers("LayoutLMConfig", **TEXT),
    "longformer": _transformers("LongformerConfig", attention_window=4, **TEXT),
    "mamba": _transformers("MambaConfig", vocab_size=VOCAB_SIZE, hidden_size=16, state_size=4, num_hidden_layers=2),
    "mistral": _transformers("MistralConfig", num_key_value_heads=2, **TEXT),
    "mixtral": _transformers("MixtralConfig", num_key_value_heads=2, num_local_experts=2, **TEXT),
    "mobilebert": _transformers(
        "MobileBertConfig", embedding_size=8, intra_bottleneck_size=8, true_hidden_size=8, **TEXT
    ),
    "nystromformer": _transformers("NystromformerConfig", **TEXT),
    "opt": _transformers(
        "OPTConfig", vocab_size=VOCAB_SIZE, hidden_size=16, num_attention_heads=2, ffn_dim=24, word_embed_proj_dim=16
    ),
    "phi": _transformers("PhiConfig", **TEXT),
    "rembert": _transformers("RemBertConfig", input_embedding_size=8, output_embedding_size=8, **TEXT),
    "roformer": _transformers("RoFormerConfig", **TEXT),
    "siglip2 text": _transformers("Siglip2TextConfig", **TEXT),
    "squeezebert": _transformers("SqueezeBertConfig", embedding_size=16, q_groups=2, k_groups=2, v_groups=2, **TEXT),
}
UNLISTED_IMAGE = {
    "aimv2": _transformers("Aimv2VisionConfig", **VIT),
    "blip": _transformers("BlipVisionConfig", **VIT),
    "dpt": _transformers("DPTConfig", backbone_out_indices=[0, 0, 1, 1], **VIT),
    "flava image": _transformers("FlavaImageConfig", **VIT),
    "focalnet": _transformers("FocalNetConfig", image_size=64, embed_dim=8, hidden_sizes=[8, 16], depths=[1, 1]),
    "hiera": _transformers(
        "HieraConfig",
        image_size=[64, 64],
        embed_dim=8,
        depths=[1, 1],
        num_heads=[1, 1],
        num_query_pool=1,
        masked_unit_size=[8, 8],
    ),
    "ijepa": _transformers("IJepaConfig", **VIT),
    "levit": _transformers(
        "LevitConfig",
        image_size=64,
        hidden_sizes=[8, 8, 16],
        num_attention_heads=[1, 1, 1],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    "mlcd": _transformers("MLCDVisionConfig", **VIT),
    "mobilevitv2": _transformers("MobileViTV2Config", image_size=64, width_multiplier=0.25),
    "owlvit": _transformers("OwlViTVisionConfig", **VIT),
    "poolformer": _transformers("PoolFormerConfig", hidden_sizes=[4, 8, 8, 16], depths=[1, 1, 1, 1]),
    "pvt": _transformers("PvtConfig", image_size=64, hidden_sizes=[8, 8, 8, 16], mlp_ratios=[2, 2, 2, 2], **PYRAMID),
    "sam vision": _transformers("SamVisionConfig", output_channels=8, window_size=2, global_attn_indexes=[1], **VIT),
    "segformer": _transformers("SegformerConfig", hidden_sizes=[8, 8, 8, 16], **PYRAMID),
    "swiftformer": _transformers("SwiftFormerConfig", depths=[1, 1, 1, 1], embed_dims=[8, 8, 8, 16]),
    "vit_msn": _transformers("ViTMSNConfig", **VIT),
    "vitdet": _transformers("VitDetConfig", **VIT),
}
QUICK = ("mistral", "mixtral", "squeezebert", "mamba", "hiera", "pvt", "segformer", "ijepa")


@pytest.mark.parametrize(
    ("modality", "make"),
    [
        pytest.param(modality, make, id=name, marks=[] if name in QUICK else pytest.mark.slow)
        for modality, configs in (("text", UNLISTED_TEXT), ("vision", UNLISTED_IMAGE))
        for name, make in configs.items()
    ],
)
def test_an_encoder_of_a_kind_that_is_not_listed_works(modality, make):
    try:
        config = make()
    except AttributeError:
        pytest.skip("this release of transformers has no such model")
    if config.model_type not in CONFIG_MAPPING:
        pytest.skip("this release of transformers knows this half only inside its dual model")
    text, image = (config, IMAGE_ENCODERS["ViT"]()) if modality == "text" else (TEXT_ENCODERS["BERT"](), config)
    model = UMEForVisualQuestionAnswering(UMEConfig.from_encoder_configs(text, image, num_labels=5))
    batch = joint_batch()
    assert without_gradient(model, batch) == []
    expected = logits(model, batch)
    assert expected.isfinite().all()
    if modality == "text":
        batch["input_ids"] = batch["input_ids"].where(batch["attention_mask"].bool(), 59)
        torch.testing.assert_close(logits(model, batch), expected, rtol=0, atol=1e-6)
    else:
        stream = model.ume.encode_image(batch["pixel_values"])
        assert stream.grid[0] == stream.grid[1]
        assert stream.states.shape[1] - math.prod(stream.grid) in (0, 1)


def test_the_table_of_encoders_says_what_each_gives():
    facts = {fact["name"]: fact for fact in encoder_facts()}
    assert list(facts) == TEXTS + IMAGES
    assert facts["BERT"] == {
        "name": "BERT",
        "model_type": "bert",
        "modality": "text",
        "tokens": "L × D",
        "pooled": "cls",
        "sdpa": True,
        "gradient_checkpointing": True,
    }
    tokens = {name: fact["tokens"] for name, fact in facts.items() if fact["modality"] == "vision"}
    assert tokens["ViT"] == "(1 + 14·14) × D"
    assert tokens["DeiT"] == "(2 + 14·14) × D"
    assert tokens["DINOv2 with registers"] == "(5 + 16·16) × D"
    assert tokens["Swin"] == tokens["ResNet"] == "7·7 × D"
    assert tokens["VGG-16"] == "14·14 × D"
    pooled = {name: fact["pooled"] for name, fact in facts.items()}
    assert (pooled["GPT-2"], pooled["T5"], pooled["Swin"], pooled["VGG-19"]) == ("last", "mean", "mean", "pooler")


def test_a_kind_of_encoder_that_this_release_lacks_is_named():
    message = rf"vision_config: transformers {transformers.__version__} has no model_type='vit_of_tomorrow'"
    with pytest.raises(ValueError, match=message):
        UMEConfig(vision_config={"model_type": "vit_of_tomorrow"})


@torch.no_grad()
def test_a_map_with_its_channels_last_is_recognised_by_its_pooled_width():
    class ChannelsLast(UMEVGGModel):
        def forward(self, pixel_values):
            output = super().forward(pixel_values)
            grid = output.last_hidden_state.permute(0, 2, 3, 1)
            return type(output)(last_hidden_state=grid, pooler_output=grid.mean((1, 2)))

    encoder = ChannelsLast(UMEVGGConfig(image_size=64, hidden_sizes=[4, 4, 8, 8, 8], fc_size=12)).eval()
    adapter, images = EncoderAdapter(encoder, "vision", "pooler"), torch.randn(2, 3, 64, 96)
    stream = adapter.vision(encoder, images)
    assert (stream.grid, adapter.width) == ((4, 6), 8)
    torch.testing.assert_close(stream.states.unflatten(1, (4, 6)), encoder(images).last_hidden_state)
