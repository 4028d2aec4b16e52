#!/usr/bin/env python
"""Save tiny checkpoints with what they answer, so that a later version can be held to what this one saved.

python tests/released/save.py tests/released/NAME   # NAME: the version or commit that the project is at

What is saved stays as it is for good: it stands for the checkpoints that users have. The encoders differ in kind, so
that each way in which weights are named, pooled and joined is there once; inputs come from integer arithmetic.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path += [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent / "golden")]

from conftest import IMAGE_CONFIGS, TEXT_CONFIGS, VOCAB_SIZE, tiny_model
from make_logits import numbers
from PIL import Image
from transformers import ViTImageProcessor

from modeling_ume import (
    FUSIONS,
    UMEConfig,
    UMEForImageTextRetrieval,
    UMEForVisualQuestionAnswering,
    UMEModel,
    UMEProcessor,
    UMEVQAPipeline,
)
from training_ume.build.tokenizer import words_tokenizer

LSTM = {"model_type": "ume_lstm", "vocab_size": VOCAB_SIZE, "embedding_size": 8, "hidden_size": 12, "num_layers": 2}
VGG = {"model_type": "ume_vgg", "hidden_sizes": [4, 4, 6, 6, 8], "fc_size": 12, "image_size": 32}
ANSWERS = {0: "no", 1: "yes", 2: "red", 3: "2"}
QUESTIONS = ["is it red?", "what color is the big square?"]
CLASSES = {"vqa": UMEForVisualQuestionAnswering, "base": UMEModel, "retrieval": UMEForImageTextRetrieval}
# Folder: (class, text encoder, image encoder, fields of the config).
MODELS = {
    "bert_vit_ume": ("vqa", "bert", "vit", {"fusion": "ume", "modality_dropout": 0.1}),
    "bert_vit_early_input": ("vqa", "bert", "vit", {"fusion": "early_input"}),
    "bert_vit_members": ("vqa", "bert", "vit", {"fusion": "product", "fusion_num_members": 2}),
    "distilbert_resnet_concat": ("vqa", "distilbert", "resnet", {"fusion": "concat", "text_pooling": "mean"}),
    "deberta_convnext_co_attention": ("vqa", "deberta-v2", "convnext", {"fusion": "co_attention"}),
    "lstm_vgg_late_mean": ("vqa", LSTM, VGG, {"fusion": "late_mean", "problem_type": "multi_label_classification"}),
    "bert_beit_base": ("base", "bert", "beit", {"fusion": "evc", "feature_grid": 2}),
    "bert_vit_retrieval": ("retrieval", "bert", "vit", {}),
}


def encoder_config(encoder, table: dict) -> dict:
    return encoder if isinstance(encoder, dict) else table[encoder]().to_dict()


def stir(model, parts: tuple[str, ...] = ("",)) -> None:
    """Makes every weight and statistic of these parts random: zeros and ones would hide that one of them was lost."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and any(part in name for part in parts):
                value.add_(0.1 * torch.from_numpy(numbers(name, value.numel())).view(value.shape))
                if name.endswith("running_var"):
                    value.abs_().add_(0.1)


def inputs() -> dict[str, torch.Tensor]:
    """Three questions of several lengths about two images."""
    ids = ((numbers("input_ids", 3 * 6) + 1) / 2 * (VOCAB_SIZE - 5) + 5).astype("int64")
    return {
        "input_ids": torch.from_numpy(ids).view(3, 6),
        "attention_mask": (torch.arange(6) < torch.tensor([6, 3, 5])[:, None]).long(),
        "pixel_values": torch.from_numpy(numbers("pixel_values", 2 * 3 * 32 * 32)).float().view(2, 3, 32, 32),
        "image_index": torch.tensor([0, 1, 0]),
    }


@torch.no_grad()
def outputs(model) -> dict[str, list]:
    """What the model says of `inputs()`, by the name of the output."""
    said = model.eval()(**inputs())
    names = ("logits", "fused", "logits_per_text", "text_embeds", "image_embeds")
    return {name: said[name].tolist() for name in names if said.get(name) is not None}


def answers(folder: Path, model) -> list[dict]:
    """What the pipeline answers about a red picture with the processor of the folder."""
    ask = UMEVQAPipeline(model=model, processor=UMEProcessor.from_pretrained(folder))
    return [answer for row in ask(Image.new("RGB", (40, 30), "red"), QUESTIONS, top_k=len(ANSWERS)) for answer in row]


def keep(folder: Path, model) -> None:
    """Beside the model, what it says; its code files are those of the commit and stay there."""
    expected = outputs(model)
    if (folder / "processor_config.json").exists():
        expected["answers"] = answers(folder, model)
    (folder / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")
    for file in folder.glob("*.py"):
        file.unlink()


def head_shapes(fusion: str) -> dict[str, list[int]]:
    """Names and shapes of all that a head and its classifier save."""
    state = tiny_model(fusion=fusion).state_dict().items()
    return {
        name: list(value.shape) for name, value in state if "text_model." not in name and "vision_model." not in name
    }


def save_adapter(folder: Path) -> None:
    """A LoRA adapter with the head that is trained beside it; its base is the checkpoint `bert_vit_ume`."""
    import peft

    base = UMEForVisualQuestionAnswering.from_pretrained(folder.parent / "bert_vit_ume")
    config = peft.LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=["fusion", "classifier"])
    model = peft.get_peft_model(base, config)
    stir(model, (".lora_", "modules_to_save"))
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        folder.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / name).write_bytes((Path(scratch) / name).read_bytes())
    about = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    about["base_model_name_or_path"] = "bert_vit_ume"  # beside it, wherever the tests lie
    (folder / "adapter_config.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    keep(folder, model)


def main(folder: Path) -> None:
    for name, (kind, text, image, fields) in MODELS.items():
        torch.manual_seed(0)
        fields = {"fusion_hidden_size": 16, "id2label": ANSWERS, **fields}
        configs = {
            "text_config": encoder_config(text, TEXT_CONFIGS),
            "vision_config": encoder_config(image, IMAGE_CONFIGS),
        }
        model = CLASSES[kind](UMEConfig(**configs, **fields))
        stir(model)
        model.save_pretrained(folder / name)
        keep(folder / name, model)
    tokenizer = words_tokenizer(QUESTIONS, max_length=16)
    image_processor = ViTImageProcessor(size={"height": 32, "width": 32})
    UMEProcessor(image_processor, tokenizer, id2label=ANSWERS).save_pretrained(folder / "bert_vit_ume")
    keep(folder / "bert_vit_ume", UMEForVisualQuestionAnswering.from_pretrained(folder / "bert_vit_ume"))
    save_adapter(folder / "adapter")
    heads = [f" {json.dumps(fusion)}: {json.dumps(head_shapes(fusion))}" for fusion in sorted(FUSIONS)]
    (folder / "heads.json").write_text("{\n" + ",\n".join(heads) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        sys.exit("Give one folder that is not there yet, tests/released/NAME: what was saved is never written over.")
    main(Path(sys.argv[1]))
