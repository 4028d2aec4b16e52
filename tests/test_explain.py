"""Explanations: what their numbers must add up to, that maps lie where they belong, and the script around them."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_batch, tiny_model
from PIL import Image, ImageDraw
from vqa_files import write_tiny_recipe, write_vqa_files

from configuration_ume import UMEConfig
from modeling_ume import FUSIONS, UMEForVisualQuestionAnswering
from training_ume.commands import main
from training_ume.explain.attribution import cam_layer, grad_cam, integrated_map, sum_over_cells, token_scores
from training_ume.explain.explanation import explain
from training_ume.explain.faithfulness import PATCHES, masking_curves, mass_in_box, patch_order, shape_box
from training_ume.explain.shapley import modality_means, shapley_values, subset_probabilities
from training_ume.explain.words import merge_words, pair_maps
from training_ume.report.encoder_facts import IMAGE_ENCODERS, TEXT_ENCODERS, available

pytest.importorskip("captum")
ROOT = Path(__file__).parent.parent
QUESTION = torch.tensor([[2, 9, 14, 33, 7, 3]])


def one(batch_size=1, **kwargs):
    """The inputs of one question, without padding, about one image."""
    batch = tiny_batch(batch_size, num_images=batch_size, **kwargs)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]} | {
        "pixel_values": batch["pixel_values"]
    }


def with_encoders(text="BERT", image="ViT", **kwargs):
    torch.manual_seed(0)
    config = UMEConfig.from_encoder_configs(
        TEXT_ENCODERS[text](), IMAGE_ENCODERS[image](), num_labels=7, fusion_hidden_size=16, **kwargs
    )
    return UMEForVisualQuestionAnswering(config).eval()


def settle(encoder):
    """Gives batch norms the statistics of some images: with those they begin with, deep random networks say 0."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    encoder.train()
    with torch.no_grad():
        encoder(pixel_values=torch.randn(4, 3, 64, 64))
    encoder.eval()


# ------------------------------------------------------------------------------------------------- where it looked


@pytest.mark.parametrize("name", available(IMAGE_ENCODERS))
def test_every_image_encoder_gives_a_map_over_its_own_grid_that_is_not_empty(name):
    # `concat` hears of the image by its summary alone, often the class token: the hardest case.
    model = with_encoders(image=name, fusion="concat")
    pixel_values = torch.randn(1, 3, 64, 64)
    settle(model.ume.vision_model)
    cells, layer = grad_cam(model, {"input_ids": QUESTION, "pixel_values": pixel_values}, target=3)
    assert cells.shape == tuple(model.encode_images(pixel_values)["vision_grid"].tolist())
    assert cells.abs().max() > 0
    assert layer in dict(model.ume.vision_model.named_modules())


@pytest.mark.parametrize(
    ("image", "block"),
    [("ViT", "layers.1"), ("DeiT", "layers.1"), ("BEiT", "layers.1"), ("Swin", "encoder.layers.3.blocks.0")],
)
def test_an_encoder_of_tokens_is_read_where_its_last_block_begins(image, block):
    name, _, of_tokens = cam_layer(with_encoders(image=image), torch.randn(1, 3, 64, 64))
    assert (name, of_tokens) == (block, True)


@pytest.mark.parametrize("image", ["ConvNeXt", "ResNet", "MobileNetV2", "VGG-16"])
def test_a_convolutional_encoder_is_read_at_its_last_feature_map(image):
    model, pixel_values = with_encoders(image=image), torch.randn(1, 3, 64, 64)
    _, layer, of_tokens = cam_layer(model, pixel_values)
    given = []
    layer.register_forward_hook(lambda module, args, output: given.append(output))
    last = model.ume.vision_model(pixel_values).last_hidden_state
    assert not of_tokens
    assert torch.equal(given[-1], last)


def test_grad_cam_of_a_feature_map_is_its_formula():
    model, inputs = tiny_model(image="resnet"), one()
    states = {}

    def keep(module, args, output):
        states["map"] = output.last_hidden_state
        states["map"].retain_grad()

    cells, _ = grad_cam(model, inputs, target=2)
    model.ume.vision_model.register_forward_hook(keep)
    model(**inputs).logits[0, 2].backward()
    weights = states["map"].grad.mean((2, 3), keepdim=True)
    torch.testing.assert_close(cells, (weights * states["map"]).sum(1)[0].detach())


@pytest.mark.parametrize(("image", "special"), [("ViT", 1), ("DeiT", 2), ("DINOv2 with registers", 5), ("Swin", 0)])
def test_grad_cam_of_tokens_is_its_formula_over_the_patches_alone(image, special):
    model = with_encoders(image=image)
    inputs = {"input_ids": QUESTION, "pixel_values": torch.randn(1, 3, 64, 64)}
    cells, _ = grad_cam(model, inputs, target=2)
    _, layer, _ = cam_layer(model, inputs["pixel_values"])
    read = []
    layer.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    logits = model(**inputs).logits
    [slopes] = torch.autograd.grad(logits[0, 2], read)
    patches = read[0][0, special:]
    expected = patches @ slopes[0, special:].mean(0)
    torch.testing.assert_close(cells.flatten(), expected.detach())


def test_detection_tokens_behind_the_patches_are_left_out_of_the_map():
    model = with_encoders(image="YOLOS")
    inputs = {"input_ids": QUESTION, "pixel_values": torch.randn(1, 3, 64, 64)}
    _, layer, _ = cam_layer(model, inputs["pixel_values"])
    read = []
    handle = layer.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    [slopes] = torch.autograd.grad(model(**inputs).logits[0, 0], read)
    handle.remove()
    expected = read[0][0, 1:17] @ slopes[0, 1:17].mean(0)  # class token, 4 × 4 patches, 100 detection tokens
    torch.testing.assert_close(grad_cam(model, inputs, target=0)[0].flatten(), expected.detach())


def test_frozen_encoders_and_averaged_tokens_change_no_map():
    inputs = one()
    free, frozen = tiny_model(feature_grid=2), tiny_model(feature_grid=2)
    for modality in ("text", "vision"):
        frozen.freeze(modality)
    cells, _ = grad_cam(frozen, inputs, target=1)
    assert cells.shape == (4, 4)  # of the encoder, though the head sees 2 × 2
    torch.testing.assert_close(cells, grad_cam(free, inputs, target=1)[0])


@pytest.mark.parametrize(
    ("image", "size"), [("vit", (32, 32)), ("resnet", (32, 32)), ("vit", (40, 40)), ("resnet", (9, 50))]
)
def test_the_integrated_map_adds_up_to_what_the_image_adds_to_the_logit(image, size):
    model, inputs = tiny_model(image=image), one()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs["pixel_values"] = torch.randn(1, 3, *size) + torch.linspace(-1, 1, size[1])
    blank = inputs["pixel_values"].mean((2, 3), keepdim=True).expand_as(inputs["pixel_values"])
    cells, error = integrated_map(model, inputs, target=4)
    with torch.no_grad():
        added = model(**inputs).logits[0, 4] - model(**{**inputs, "pixel_values": blank}).logits[0, 4]
    assert cells.shape == (16, 16)
    assert error == pytest.approx(abs(cells.sum() - added).item(), abs=1e-5)
    assert error < 0.05 * abs(added)


@pytest.mark.parametrize("size", [(16, 16), (40, 88), (100, 3), (7, 15)])
def test_cells_share_every_pixel_by_area_and_lose_none(size):
    pixels = torch.randn(size)
    cells = sum_over_cells(pixels, 16)
    assert cells.sum().item() == pytest.approx(pixels.double().sum().item(), abs=1e-9)
    assert torch.allclose(sum_over_cells(torch.ones(size), 16), torch.tensor(size[0] * size[1] / 256).double())
    if size == (16, 16):
        assert torch.equal(cells.float(), pixels)
    corner = torch.zeros(size)
    corner[0, -1] = 1  # of the top right corner only the cells there hear
    heard = sum_over_cells(corner, 16).nonzero()
    assert heard[:, 0].max() <= -(-16 // size[0]) - 1
    assert heard[:, 1].min() >= 16 - -(-16 // size[1])


def test_pair_maps_and_what_falls_outside_the_image_add_up_to_one():
    model, inputs = tiny_model(fusion="ume"), one()
    weights = model(**inputs).fusion_weights
    maps = pair_maps(weights, torch.tensor([4, 4]), list("abcdef"))
    assert maps.maps.shape == (6, 4, 4)
    assert maps.off_grid.min() > 0  # ViT's class token
    assert maps.maps.sum() + maps.off_grid.sum() == pytest.approx(1)
    assert maps.maps[2, 1, 3] == pytest.approx(weights["pair_weights"][0, 2, 1 + 1 * 4 + 3].item())
    assert pair_maps({}, torch.tensor([4, 4]), []) is None


# ---------------------------------------------------------------------------------------------- which words mattered


@pytest.mark.parametrize("name", available(TEXT_ENCODERS))
def test_the_scores_of_the_tokens_add_up_and_those_that_stay_the_same_score_nothing(name):
    model = with_encoders(text=name, image="ResNet")
    mask = torch.ones_like(QUESTION)
    text = {"input_ids": QUESTION, "attention_mask": mask}
    blank = torch.tensor([[2, 0, 0, 0, 0, 3]])
    with torch.no_grad():
        encoded = model.encode_images(torch.randn(1, 3, 64, 64))
        logit = model(**text, **encoded).logits[0, 5].item()
    scores, begins_at, error = token_scores(model, text, blank, encoded, target=5)
    assert scores[[0, 5]].tolist() == [0.0, 0.0]
    assert scores.abs().max() > 0
    assert error < 0.02 * abs(logit - begins_at) + 1e-3
    assert scores.sum().item() == pytest.approx(logit - begins_at, abs=error + 1e-4)


def test_the_path_of_the_words_begins_at_the_blank_question():
    model, inputs = tiny_model(), one()
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    blank = torch.zeros_like(text["input_ids"])
    with torch.no_grad():
        encoded = model.encode_images(inputs["pixel_values"])
        expected = model(**{**text, "input_ids": blank}, **encoded).logits[0, 1].item()
    assert token_scores(model, text, blank, encoded, target=1)[1] == pytest.approx(expected, abs=1e-5)


def test_pieces_are_merged_into_words_and_special_tokens_left_out():
    question = "what's un-believable?"
    offsets = [[0, 0], [0, 4], [4, 6], [7, 9], [9, 10], [10, 17], [17, 20], [20, 21], [0, 0]]
    special = [True, *[False] * 7, True]
    words = merge_words(question, offsets, special, [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0])
    assert [(word["word"], word["score"]) for word in words] == [("what's", 3.0), ("un-believable", 18.0), ("?", 7.0)]
    assert all(question[word["start"] : word["end"]] == word["word"] for word in words)


def test_a_piece_that_begins_with_the_space_before_it_belongs_to_the_word_behind():
    words = merge_words("is it", [[0, 2], [2, 3], [2, 5]], [False] * 3, [1.0, 2.0, 4.0])
    assert [(word["word"], word["score"]) for word in words] == [("is", 1.0), ("it", 6.0)]


# ---------------------------------------------------------------------------------------------------- which modality


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_shapley_values_of_every_head_add_up_to_both_minus_neither(fusion):
    model, inputs = tiny_model(fusion=fusion), one(3, length=6)
    with torch.no_grad():
        encoded = model.encode_images(inputs.pop("pixel_values"))
        together = model(**inputs, **encoded).logits.softmax(-1)
        alone = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.softmax(-1)
    best = together.argmax(-1)
    values = subset_probabilities(model, {**inputs, **encoded})
    assert values.isfinite().all()
    torch.testing.assert_close(values[:, 3], together.max(-1).values)
    torch.testing.assert_close(values[:, 1], alone.gather(1, best[:, None])[:, 0])
    torch.testing.assert_close(shapley_values(values).sum(-1), values[:, 3] - values[:, 0])


def test_shapley_values_are_the_mean_over_both_orders():
    text, image = shapley_values(torch.tensor([0.1, 0.3, 0.2, 0.9])).tolist()
    assert text == pytest.approx(((0.3 - 0.1) + (0.9 - 0.2)) / 2)
    assert image == pytest.approx(((0.2 - 0.1) + (0.9 - 0.3)) / 2)


def test_questions_that_share_an_image_get_the_values_that_each_has_alone():
    model, batch = tiny_model(), tiny_batch(3, num_images=2)
    encoded = model.encode_images(batch.pop("pixel_values"))
    together = subset_probabilities(model, {**batch, **encoded})
    row = {name: batch[name][2:] for name in ("input_ids", "attention_mask", "image_index")}
    torch.testing.assert_close(together[2:], subset_probabilities(model, {**row, **encoded}))


def test_shares_add_up_to_one_and_are_absent_where_nothing_moves_the_answer():
    means = modality_means(torch.tensor([[0.0, 0.5, 0.0, 1.0], [0.5, 0.0, 0.5, 0.0]]), None)
    assert means["share"]["text"] + means["share"]["image"] == pytest.approx(1)
    assert means["share"]["text"] == pytest.approx((0.75 + 0.5) / (0.75 + 0.5 + 0.25))
    assert modality_means(torch.full((3, 4), 0.2), None)["share"] is None


# ------------------------------------------------------------------------------------------------- is the map right


def test_a_map_that_is_the_same_everywhere_has_the_share_of_the_boxs_area():
    assert mass_in_box(np.ones((7, 5)), (3, 10, 23, 40), (64, 64)) == pytest.approx(20 * 30 / 64**2)


def test_the_mass_of_one_cell_is_spread_over_the_cell_and_negative_mass_is_left_out():
    cells = np.full((4, 4), -1.0)
    assert mass_in_box(cells, (0, 0, 8, 16), (64, 64)) is None
    cells[0, 0] = 2.0
    assert mass_in_box(cells, (0, 0, 8, 16), (64, 64)) == pytest.approx(0.5)
    assert mass_in_box(cells, (16, 0, 64, 64), (64, 64)) == 0


def test_the_box_is_that_of_the_shape():
    image = Image.new("RGB", (64, 64), (240, 250, 245))
    ImageDraw.Draw(image).rectangle((10, 20, 29, 50), fill=(255, 0, 0))
    assert shape_box(image) == (10, 20, 30, 51)
    with pytest.raises(ValueError, match="one colour throughout"):
        shape_box(Image.new("RGB", (64, 64)))


def test_an_order_that_names_what_the_answer_hangs_on_has_a_low_deletion_and_a_high_insertion():
    class Bright:
        """Answers by whether the patch in row 2, column 5 is bright."""

        config = UMEConfig(num_labels=2)

        def __call__(self, input_ids, pixel_values):
            seen = pixel_values[:, 0, 20, 44] * 10
            return type("Output", (), {"logits": torch.stack([seen, -seen], dim=1)})

    pixel_values = torch.full((1, 3, 64, 64), -1.0)
    pixel_values[..., 16:24, 40:48] = 1.0
    cells = np.zeros((16, 16))
    cells[4:6, 10:12] = 1
    generator = torch.Generator().manual_seed(0)
    right, wrong = patch_order(cells, generator), patch_order(-cells, generator)
    assert right[0] == wrong[-1] == 2 * PATCHES + 5
    assert sorted(right.tolist()) == list(range(PATCHES**2))
    inputs = {"input_ids": QUESTION, "pixel_values": pixel_values}
    deletion, insertion = masking_curves(Bright(), inputs, 0, [right, wrong])
    assert deletion[0] < 0.1 < 0.9 < deletion[1]
    assert insertion[0] > 0.9 > 0.1 > insertion[1]


# ------------------------------------------------------------------------------------------------------- the script


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model that `ume train` would train: (its folder, an image, the paths of its data)."""
    from configuration_ume.parsing import parse_recipe
    from training_ume.training.run import train_and_evaluate

    folder = tmp_path_factory.mktemp("trained")
    files = write_vqa_files(folder / "data")
    recipe = write_tiny_recipe(folder / "tiny.yaml", files, num_train_epochs=1)
    train_and_evaluate(parse_recipe([str(recipe)]))
    return str(folder / "run"), str(Path(files["train_images"]) / "image0.png"), files


def test_the_script_writes_one_png_and_one_json(tmp_path, trained, capsys):
    model, image, _ = trained
    out = str(tmp_path / "new" / "why")
    assert main(["explain", model, image, "what color is it?", "--out", out]) == 0
    with Image.open(f"{out}.png") as picture:
        assert picture.width == 960
    found = json.loads(Path(f"{out}.json").read_text())
    assert found["question"] == "what color is it?"
    assert found["answer"] == found["candidates"][0]["answer"]
    assert found["probability"] == pytest.approx(found["candidates"][0]["score"], abs=1e-5)
    assert [word["word"] for word in found["words"]] == ["what", "color", "is", "it", "?"]
    completeness = found["completeness"]
    difference = completeness["logit"] - completeness["baseline_logit"]
    assert abs(completeness["sum_of_words"] - difference) == pytest.approx(completeness["error"], abs=1e-9)
    assert completeness["error"] < 1e-3
    assert found["integrated"]["error"] < 1e-3
    assert sum(found["modality_weights"].values()) == pytest.approx(1)
    pairs = found["pair_weights"]
    assert np.sum(pairs["maps"]) + np.sum(pairs["off_grid"]) == pytest.approx(1)
    assert sum(found["shapley"].values()) == pytest.approx(
        found["modality_values"]["text+image"] - found["modality_values"][""], abs=1e-5
    )
    assert found["modality_weights"].keys() == {"text", "image", "pairs"}
    assert found["pair_weights"]["tokens"] == ["[CLS]", "what", "color", "is", "it", "?", "[SEP]"]
    assert np.shape(found["pair_weights"]["maps"]) == (7, 2, 2)
    assert np.shape(found["grad_cam"]["map"]) == (2, 2)
    assert f"wrote {out}.png" in capsys.readouterr().out


def test_another_answer_can_be_explained(tmp_path, trained):
    model, image, _ = trained
    out = str(tmp_path / "why")
    assert main(["explain", model, image, "is it red?", "--answer", "white", "--out", f"{out}.png"]) == 0
    assert json.loads(Path(f"{out}.json").read_text())["answer"] == "white"


def test_over_a_data_set_the_script_writes_and_prints_shares_by_type_of_answer(tmp_path, trained, capsys):
    model, _, files = trained
    out = str(tmp_path / "modalities")
    data = ["--source", "vqa_v2", "--questions", files["train_questions"], "--images", files["train_images"]]
    data += ["--annotations", files["train_annotations"], "--max_questions", "20"]
    assert main(["explain", model, *data, "--out", out]) == 0
    found = json.loads(Path(f"{out}.json").read_text())
    assert found["questions"] == found["kinds"]["all"]["questions"] == 20
    assert found["kinds"].keys() == {"all", "other", "yes/no"}
    assert sum(kind["questions"] for kind in found["kinds"].values()) == 40
    assert sum(found["kinds"]["other"]["share"].values()) == pytest.approx(1)
    assert sum(found["kinds"]["other"]["modality_weights"].values()) == pytest.approx(1)
    assert Path(f"{out}.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "yes/no" in printed
    assert "P neither" in printed


def test_nothing_is_overwritten_without_being_asked(tmp_path, trained, capsys):
    model, image, _ = trained
    (tmp_path / "why.json").write_text("mine")
    argv = [model, image, "is it red?", "--out", str(tmp_path / "why")]
    assert main(["explain", *argv]) == 2
    assert "why.json exists: add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "why.json").read_text() == "mine"
    assert not (tmp_path / "why.png").exists()
    assert main(["explain", *argv, "--overwrite"]) == 0
    assert json.loads((tmp_path / "why.json").read_text())["question"] == "is it red?"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["absent", "IMAGE", "is it red?"], "There is no model 'absent'"),
        (["IMAGE", "IMAGE", "is it red?"], "is a file, not a model"),
        (["MODEL", "absent.png", "is it red?"], "there is no such file"),
        (["MODEL", "BROKEN", "is it red?"], "cannot be read"),
        (["MODEL", "IMAGE", " "], "The question is empty"),
        (["MODEL", "IMAGE"], "There is no question"),
        (["MODEL"], "Give either an image and a question, or a data set"),
        (["MODEL", "IMAGE", "is it red?", "--source", "easy_vqa"], "Give either an image and a question, or"),
        (["MODEL", "IMAGE", "is it red?", "--answer", "whit"], "does not know the answer 'whit': choose one of its"),
        (["MODEL", "--source", "easy_vqa", "--answer", "yes"], "leave it out with --source"),
        (["MODEL", "--source", "easy_vqa", "--max_questions", "0"], "max_questions=0 is impossible"),
    ],
)
def test_what_the_script_cannot_use_is_one_sentence_and_exit_code_2(tmp_path, trained, capsys, argv, sentence):
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = {"MODEL": trained[0], "IMAGE": trained[1], "BROKEN": str(tmp_path / "broken.png")}
    assert main(["explain", *(names.get(word, word) for word in argv), "--out", str(tmp_path / "why")]) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "why.png").exists()


# ------------------------------------------------------------------------------------------ a model that has learned


def write_squares(folder, count=300):
    """Images of one coloured square each, somewhere on white, and the question what colour it has."""
    rng = random.Random(0)
    colours = {"red": (220, 30, 30), "green": (30, 170, 30), "blue": (30, 30, 220), "black": (20, 20, 20)}
    files = write_vqa_files(folder, num_images=count)
    annotations = json.loads(Path(files["train_annotations"]).read_text())["annotations"]
    questions = json.loads(Path(files["train_questions"]).read_text())["questions"]
    boxes = []
    for i in range(count):
        name, (side, left, top) = rng.choice(list(colours)), (rng.randint(12, 22) for _ in range(3))
        left, top = (rng.randint(0, 64 - side) for _ in range(2))
        image = Image.new("RGB", (64, 64), (245, 245, 245))
        ImageDraw.Draw(image).rectangle((left, top, left + side - 1, top + side - 1), fill=colours[name])
        image.save(Path(files["train_images"]) / f"image{i}.png")
        boxes.append((left, top, left + side, top + side))
        for entry in (e for e in annotations if e["image_id"] == i):
            asked = next(q for q in questions if q["question_id"] == entry["question_id"])["question"]
            right = name if asked.startswith("what") else ("yes" if name in asked else "no")
            entry["answers"] = [{"answer": right, "answer_confidence": "yes", "answer_id": k} for k in range(1, 11)]
    Path(files["train_annotations"]).write_text(json.dumps({"annotations": annotations}))
    return files, boxes


@pytest.mark.slow
def test_a_trained_models_integrated_map_lies_on_the_shape_and_its_order_beats_chance(tmp_path):
    from configuration_ume.parsing import parse_recipe
    from training_ume.evaluation.load import load_checkpoint
    from training_ume.training.run import train_and_evaluate

    files, boxes = write_squares(tmp_path / "data")
    encoder = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    fields = {"vision_config": {**encoder, "layer_type": "basic"}, "image_size": 64, "num_train_epochs": 12}
    fields |= {"per_device_train_batch_size": 32, "learning_rate": 3e-3, "fusion_hidden_size": 32, "seed": 0}
    train_and_evaluate(parse_recipe([str(write_tiny_recipe(tmp_path / "squares.yaml", files, **fields))]))
    model, processor = load_checkpoint(str(tmp_path / "run"))
    model.to("cpu")
    torch.manual_seed(0)
    untrained = UMEForVisualQuestionAnswering(model.config).eval()
    generator = torch.Generator().manual_seed(0)
    shares, before, uniform, areas = [], [], [], []
    for i, box in enumerate(boxes[:40]):
        with Image.open(Path(files["train_images"]) / f"image{i}.png") as image:
            inputs = dict(processor(images=image.convert("RGB"), text="what color is it?"))
        target = model(**inputs).logits[0].argmax().item()
        cells = integrated_map(model, inputs, target)[0].numpy()
        shares.append(mass_in_box(cells, box, (64, 64)))
        before.append(mass_in_box(integrated_map(untrained, inputs, target)[0].numpy(), box, (64, 64)))
        uniform.append(mass_in_box(np.ones((4, 4)), box, (64, 64)))
        orders = [patch_order(cells, generator), torch.randperm(PATCHES**2, generator=generator)]
        areas.append(torch.stack(masking_curves(model, inputs, target, orders)))
    (deletion, chance_deletion), (insertion, chance_insertion) = torch.stack(areas).mean(0).tolist()
    assert np.mean(shares) >= 0.6
    assert np.mean(shares) > np.mean(before) + 0.1
    assert np.mean(shares) > 3 * np.mean(uniform)
    assert deletion < chance_deletion
    assert insertion > chance_insertion


def test_explaining_an_answer_the_model_does_not_give_keeps_the_one_it_gives(trained):
    from training_ume.evaluation.load import load_checkpoint

    model, processor = load_checkpoint(trained[0])
    given = explain(model, processor, trained[1], "what color is it?")
    other = next(answer for answer in model.config.id2label.values() if answer != given.answer)
    explained = explain(model, processor, trained[1], "what color is it?", other)
    assert explained.answer == other
    assert explained.candidates == given.candidates
    assert explained.probability < given.probability
