"""LoRA reaches what it says and nothing else: frozen stays frozen, and adapter and merged model answer alike."""

from types import SimpleNamespace

import pytest
import torch
from conftest import IMAGE_CONFIGS, TEXT_CONFIGS, TRANSFORMER, VOCAB_SIZE, tiny_batch
from transformers import (
    BertConfig,
    CLIPTextConfig,
    GPT2Config,
    MobileNetV2Config,
    MobileViTConfig,
    RegNetConfig,
    ViTConfig,
)

from modeling_ume import UMEConfig, UMEForVisualQuestionAnswering, UMEModel
from modeling_ume.simple_encoders_ume import UMELSTMConfig, UMEVGGConfig

peft = pytest.importorskip("peft")

from safetensors.torch import load_file  # noqa: E402
from test_trainer import interrupt_after  # noqa: E402
from vqa_files import write_tiny_recipe, write_vqa_files  # noqa: E402

from configuration_ume.parsing import parse_recipe  # noqa: E402
from training_ume.build.lora import describe_lora, lora_facts, lora_layers, save_adapter, with_lora  # noqa: E402
from training_ume.training.run import train_and_evaluate  # noqa: E402

TEXTS = {
    "bert": TEXT_CONFIGS["bert"],
    "gpt2": lambda: GPT2Config(vocab_size=VOCAB_SIZE, n_embd=16, n_layer=1, n_head=2, n_positions=32),
    "clip": lambda: CLIPTextConfig(vocab_size=VOCAB_SIZE, **TRANSFORMER),
    "lstm": lambda: UMELSTMConfig(vocab_size=VOCAB_SIZE, embedding_size=8, hidden_size=8),
}
IMAGES = {
    "vit": IMAGE_CONFIGS["vit"],
    "resnet": IMAGE_CONFIGS["resnet"],
    "convnext": IMAGE_CONFIGS["convnext"],
    "mobilenet": lambda: MobileNetV2Config(
        image_size=32, depth_multiplier=0.25, min_depth=4, depth_divisible_by=4, expand_ratio=1.0
    ),
    # Its layers hold modules called `fusion`.
    "mobilevit": lambda: MobileViTConfig(
        image_size=32, hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 16],
        num_attention_heads=2, initializer_range=0.3,
    ),
    "regnet": lambda: RegNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4, layer_type="y"
    ),
    "vgg": lambda: UMEVGGConfig(fc_size=16),
}  # fmt: skip


def arguments(**changes) -> SimpleNamespace:
    fields = {"lora_r": 2, "lora_alpha": None, "lora_dropout": 0.0, "freeze_text": False, "freeze_vision": False}
    return SimpleNamespace(**fields | changes)


def build(text: str, image: str, **fields) -> UMEForVisualQuestionAnswering:
    torch.manual_seed(0)
    fields = {"num_labels": 4, "fusion_hidden_size": 16, "fusion": "concat", **fields}
    return UMEForVisualQuestionAnswering(UMEConfig.from_encoder_configs(TEXTS[text](), IMAGES[image](), **fields))


def train(model, steps: int = 3) -> None:
    """Large steps over everything that is trainable."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    for step in range(steps):
        batch = tiny_batch(4, 4, seed=step)
        model(**batch, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


CASES = {
    "mobilevit, frozen": ("bert", "mobilevit", {"freeze_vision": True}, {}),
    "mobilevit": ("bert", "mobilevit", {"freeze_text": True}, {}),
    "gpt2 × resnet": ("gpt2", "resnet", {}, {}),
    "lstm × regnet": ("lstm", "regnet", {}, {}),
    "clip × convnext": ("clip", "convnext", {"freeze_text": True}, {}),
    "early_input": ("bert", "vit", {}, {"fusion": "early_input"}),
    "members": ("bert", "resnet", {"freeze_text": True}, {"fusion": "ume", "fusion_num_members": 2}),
    "late": ("bert", "resnet", {}, {"fusion": "late_mean"}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_adapter_and_merged_model_agree_and_nothing_else_moved(case, tmp_path):
    text, image, changes, fields = CASES[case]
    model = build(text, image, **fields)
    args = arguments(**changes)
    facts = lora_facts(model, args)
    model.save_pretrained(tmp_path / "base")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = {
        f"ume.{modality}_model.{name}" for modality in facts for name in lora_layers(model, modality)[0]
    }  # fmt: skip
    for modality in ("text", "vision"):
        if changes.get(f"freeze_{modality}"):
            model.freeze(modality)
    adapted = with_lora(model, args, tmp_path / "base")
    train(adapted)
    save_adapter(adapted, tmp_path)
    merged = adapted.merge_and_unload().eval()
    moved = {name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])}
    encoders = {name for name in moved if name.startswith(("ume.text_model.", "ume.vision_model."))}
    reached = {name.removesuffix(".weight") for name in encoders}
    assert reached <= layers
    assert len(reached) > len(layers) / 2  # one token alone leaves nothing for queries and keys to choose
    assert {name for name, _ in merged.classifier.named_parameters(prefix="classifier")} <= moved

    loaded = UMEForVisualQuestionAnswering.from_pretrained(tmp_path / "adapter").eval()
    inner = UMEModel.from_pretrained(tmp_path / "adapter").eval()
    plain = peft.PeftModel.from_pretrained(
        UMEForVisualQuestionAnswering.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    batch = tiny_batch()
    with torch.no_grad():
        wanted = merged(**batch)
        for other in (loaded, plain):
            torch.testing.assert_close(other(**batch).logits, wanted.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(inner(**batch).fused, wanted.fused, atol=1e-5, rtol=0)


def test_each_layer_that_gets_lora_has_a_gradient():
    for text, image in (("bert", "vit"), ("gpt2", "mobilevit"), ("clip", "regnet")):
        adapted = with_lora(build(text, image), arguments(), "base")
        adapted.train()
        adapted(**tiny_batch(4, 4), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        still = [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad is None]
        assert still == [], (text, image)


@pytest.mark.parametrize(
    ("text", "image", "adapted", "left_out"),
    [
        ("bert", "vit", ["Linear", "Linear"], [{"Embedding"}, {"Conv2d"}]),
        ("gpt2", "resnet", ["Conv1D", "Conv2d"], [{"Embedding"}, set()]),
        ("lstm", "regnet", [None, "Conv2d"], [{"Embedding", "LSTM"}, {"Conv2d"}]),  # grouped ones
        ("bert", "mobilevit", ["Linear", "Linear"], [{"Embedding"}, {"Conv2d"}]),
    ],
)
def test_what_gets_no_lora_is_said(text, image, adapted, left_out):
    model = build(text, image)
    facts = lora_facts(model, arguments())
    assert list(facts) == ["text", "vision"]
    for entry, kind, others in zip(facts.values(), adapted, left_out, strict=True):
        assert set(entry["adapted"]) == ({kind} if kind else set())
        assert others <= set(entry["left_out"])
        assert all(names for names in entry["left_out"].values())
    said = describe_lora(facts)
    assert f"LoRA in the text encoder ({model.config.text_config.model_type}): on " in said
    assert ("on nothing; left as they are: " in said) == (adapted[0] is None)
    assert list(lora_facts(model, arguments(freeze_text=True))) == ["vision"]


def test_layers_that_are_read_past_their_forward_are_left_out():
    model = build("bert", "vit")
    attention = torch.nn.MultiheadAttention(16, 2)
    model.ume.text_model.extra = torch.nn.ModuleDict(
        {"attention": attention, "normed": torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 4))}
    )
    chosen, others = lora_layers(model, "text")
    assert not any(name.startswith("extra") for name in chosen)
    assert {"extra.attention", "extra.attention.out_proj"} <= others.keys()
    # A convolution whose stride is read by who calls it.
    chosen, others = lora_layers(build("bert", "mobilenet"), "vision")
    assert chosen == []
    assert set(others.values()) == {"Conv2d"}


def test_encoders_that_no_lora_fits_are_refused():
    with pytest.raises(ValueError, match="neither a linear layer nor a plain convolution"):
        with_lora(build("lstm", "vit"), arguments(freeze_vision=True), "base")


def test_a_pooler_that_nothing_reads_gets_none():
    config = UMEConfig.from_encoder_configs(
        BertConfig(vocab_size=VOCAB_SIZE, **TRANSFORMER), ViTConfig(image_size=32, patch_size=8, **TRANSFORMER),
        text_pooling="cls", num_labels=4,
    )  # fmt: skip
    model = UMEForVisualQuestionAnswering(config)
    chosen, _ = lora_layers(model, "text")
    unread = model.ume._adapters["text"].unread
    assert chosen
    assert not {f"{name}.weight" for name in chosen} & unread


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_keeps_its_base_and_the_results_say_what_got_lora(tmp_path, monkeypatch, capsys):
    recipe = write_tiny_recipe(
        tmp_path / "tiny.yaml", write_vqa_files(tmp_path / "data"), lora_r=2, num_train_epochs=2, freeze_vision=True
    )
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps=7)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(parse_recipe([str(recipe)]))
    base = load_file(tmp_path / "run" / "base" / "model.safetensors")
    # New encoders are random. Others, as after a change of the code, must not take the place of the base.
    monkeypatch.setattr("training_ume.training.run.set_seed", lambda seed: torch.manual_seed(seed + 1))
    results = train_and_evaluate(parse_recipe([str(recipe), "--resume_from_checkpoint", "true"]))
    for place in ("base", "adapter"):
        after = load_file(tmp_path / "run" / place / "model.safetensors")
        assert all(torch.equal(after[name], value) for name, value in base.items()), place
    merged = load_file(tmp_path / "run" / "model.safetensors")
    frozen = [name for name in base if "vision_model" in name]
    assert frozen
    assert all(torch.equal(merged[name], base[name]) for name in frozen)
    assert set(results["lora"]) == {"text"}
    assert results["lora"]["text"]["adapted"]["Linear"] >= 6
    assert "LoRA in the text encoder (bert): on " in capsys.readouterr().out
