"""The feature cache: bit for bit what the encoders say, safe against kills and mix-ups, and as good to train on."""

import copy
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_batch, tiny_model
from PIL import Image
from transformers import BertConfig, BertModel, CTRLTokenizer, set_seed
from vqa_files import TINY, write_tiny_recipe, write_vqa_files

from configuration_ume.parsing import parse_recipe
from modeling_ume.modalities_ume import usual
from modeling_ume.vision_ume import average_grid
from training_ume.build.model import build_model
from training_ume.build.processor import build_collator, build_processor
from training_ume.build.tokenizer import words_tokenizer
from training_ume.commands import main
from training_ume.data.json_entries import VQADataError
from training_ume.evaluation.evaluate import evaluate_checkpoint
from training_ume.features import keys
from training_ume.features.build import build_features
from training_ume.features.identity import describe, differences
from training_ume.features.keys import file_stamps, saved_names
from training_ume.features.store import FeatureCache, open_features, whole_shards
from training_ume.records.files import write_whole
from training_ume.training.feature_sets import distinct_rows
from training_ume.training.prepare import load_data
from training_ume.training.run import train_and_evaluate

# What questions about images are made of; others have tests of their own.
MODALITIES = {kind.name: kind for kind in usual()}

ROOT = Path(__file__).parent.parent
ORIGIN = {"name": None, "revision": None}


class Setting:
    """A tiny recipe with both encoders frozen, and what training makes of it."""

    def __init__(self, folder: Path, num_images: int = 8, **fields):
        self.folder = folder
        files = write_vqa_files(folder / "data", num_images=num_images)
        self.images = Path(files["train_images"])
        for number, path in enumerate(sorted(self.images.iterdir())):
            noise = np.random.default_rng(number).integers(0, 256, (36, 40, 3), np.uint8)
            Image.fromarray(noise).save(path)
        frozen = {"freeze_text": True, "freeze_vision": True, "max_question_length": 12, "seed": 0}
        self.path = write_tiny_recipe(folder / "tiny.yaml", files, **{**frozen, **fields})

    def recipe(self, *argv):
        return parse_recipe([str(self.path), *map(str, argv)])

    def built(self, *argv):
        """(model, {modality: collator}, {modality: distinct rows}, data) as training would have them."""
        recipe = self.recipe(*argv)
        set_seed(recipe.training.seed)
        data = load_data(recipe.data, self.folder)
        tokenizer = words_tokenizer(data.train["question"][:])
        processor = build_processor(recipe.model, tokenizer, data.vocabulary)
        model = build_model(recipe.model, processor)
        columns = {name: kind.column for name, kind in MODALITIES.items()}
        collators = {
            modality: build_collator(recipe.data, processor, None, recipe.model.problem_type, inputs)
            for modality, inputs in columns.items()
        }
        rows = {modality: distinct_rows(data.parts().values(), column) for modality, column in columns.items()}
        return model, collators, rows, data


def build(folder, modality, model, collators, rows, **kwargs):
    return build_features(folder, modality, model, collators[modality], rows[modality], ORIGIN, **kwargs)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "files.json"}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return Setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def built(setting):
    return setting.built()


@pytest.fixture(scope="module")
def cache(setting, built):
    """The folder of a finished cache of both modalities; not to be written to."""
    model, collators, rows, _ = built
    for modality in MODALITIES:
        assert build(setting.folder / "cache" / modality, modality, model, collators, rows)["complete"]
    return setting.folder / "cache"


@pytest.fixture
def own_cache(cache, tmp_path):
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(cache, tmp_path / "cache"))


@pytest.fixture
def small_shards(monkeypatch):
    for kind in MODALITIES.values():
        monkeypatch.setattr(kind, "shard_rows", 3)
        monkeypatch.setattr(kind, "batch_rows", 1)


@torch.no_grad()
def live(model, collator, rows):
    batch = collator(rows)
    if collator.inputs == "image":
        return model.ume.encode_image(batch["pixel_values"])
    return model.ume.encode_text(**batch)


# -------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    "vision_config",
    [
        {"model_type": "vit", "patch_size": 8, **TINY},
        {
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 12],
            "depths": [1, 1],
            "layer_type": "basic",
        },
    ],
    ids=["tokens", "feature map"],
)
def test_features_are_bit_for_bit_the_encoders_output_in_float16(setting, tmp_path, vision_config):
    model, collators, rows, _ = setting.built("--vision_config", json.dumps(vision_config), "--image_size", 64)
    for modality in MODALITIES:
        build(tmp_path / modality, modality, model, collators, rows)
        cache = FeatureCache(tmp_path / modality)
        ordered = rows[modality]
        if modality == "text":  # encoded in the order of their length
            ordered = sorted(ordered, key=lambda row: len(row["question"]))
        stream = live(model, collators[modality], ordered)
        batch = cache.batch([row[MODALITIES[modality].column] for row in ordered])
        real = stream.mask[..., None] if modality == "text" else torch.tensor(True)
        assert torch.equal(batch[f"{modality}_states"], torch.where(real, stream.states, 0.0).half())
        assert torch.equal(batch[f"{modality}_pooled"], stream.pooled.half())
    assert tuple(batch["vision_grid"].tolist()) == stream.grid


def test_questions_come_back_in_any_order_with_their_own_length(built, cache):
    model, collators, rows, _ = built
    asked = [row["question"] for row in reversed(rows["text"])]
    batch = FeatureCache(cache / "text").batch(asked)
    stream = live(model, collators["text"], [{"question": question} for question in asked])
    assert torch.equal(batch["attention_mask"].bool(), stream.mask)
    assert batch["attention_mask"].sum(1).unique().numel() > 1
    torch.testing.assert_close(batch["text_states"].float(), stream.states * stream.mask[..., None], atol=5e-3, rtol=0)


def test_questions_are_stored_by_their_length_so_that_a_batch_has_little_padding(built, cache):
    questions = [row["question"] for row in built[2]["text"]]
    length_of = {hashlib.sha256(question.encode()).hexdigest(): len(question) for question in questions}
    (index,) = whole_shards(cache / "text").values()
    lengths = [length_of[key] for key in index["keys"]]
    assert lengths == sorted(lengths) != list(length_of.values())


def test_padding_stands_where_the_tokenizer_puts_it(built, cache):
    asked = [row["question"] for row in built[2]["text"]]
    right, left = (FeatureCache(cache / "text").batch(asked, side) for side in ("right", "left"))
    for i, mask in enumerate(left["attention_mask"].bool()):
        assert mask[-1]
        assert torch.equal(left["text_states"][i, mask], right["text_states"][i, right["attention_mask"][i].bool()])
        assert not left["text_states"][i, ~mask].any()


@pytest.mark.parametrize("fusion", ["concat", "ume"])
@pytest.mark.parametrize("grid", [None, 1])
def test_a_training_step_from_the_cache_has_the_loss_and_the_gradients_of_a_live_one(setting, tmp_path, fusion, grid):
    options = ["--fusion", fusion, "--fusion_dropout", "0", "--classifier_dropout", "0"]
    model, collators, rows, data = setting.built(*options, *(["--feature_grid", grid] if grid else []))
    for modality in MODALITIES:
        build(tmp_path / modality, modality, model, collators, rows)
    recipe = setting.recipe(*options)
    processor = collators["text"].processor
    collator = build_collator(recipe.data, processor, data.vocabulary, recipe.model.problem_type, "both")
    asked = [data.train[i] for i in range(10)]
    model.train()
    losses, gradients = [], []
    for caches in ({}, open_features(tmp_path, model, collator, ["text", "vision"], [data.train])):
        collator.features = caches
        batch = collator(asked)
        assert ("pixel_values" in batch) == (not caches)
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1], atol=2e-3, rtol=2e-3)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=3e-3, rtol=2e-2, msg=name)


def test_the_grid_is_averaged_and_what_stands_before_it_stays():
    states = torch.arange(2 * 17 * 3, dtype=torch.float32).view(2, 17, 3) ** 2
    pooled, grid = average_grid(states, (4, 4), 2)
    assert grid == (2, 2)
    assert torch.equal(pooled[:, 0], states[:, 0])
    cells = states[:, 1:].view(2, 4, 4, 3)
    for row in range(2):
        for column in range(2):
            mean = cells[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2))
            torch.testing.assert_close(pooled[:, 1 + 2 * row + column], mean)


def test_a_grid_that_does_not_divide_the_encoders_is_averaged_over_overlapping_cells():
    states = torch.rand(1, 16, 3)
    pooled, _ = average_grid(states, (4, 4), 3)
    torch.testing.assert_close(pooled[:, 0], states.view(1, 4, 4, 3)[:, :2, :2].mean((1, 2)))
    torch.testing.assert_close(pooled[:, 4], states.view(1, 4, 4, 3)[:, 1:3, 1:3].mean((1, 2)))


def test_a_model_with_a_grid_sees_it_from_pixels_too_and_keeps_it_when_saved(tmp_path):
    model, batch = tiny_model(feature_grid=2), tiny_batch()
    assert model.ume.encode_image(batch["pixel_values"]).states.shape[1] == 5
    with torch.no_grad():
        logits = model(**batch).logits
        model.save_pretrained(tmp_path)
        assert torch.equal(type(model).from_pretrained(tmp_path)(**batch).logits, logits)


def test_a_grid_finer_than_the_encoders_is_refused():
    with pytest.raises(ValueError, match="feature_grid=5 is impossible: the image encoder gives a grid of 4×4 tokens"):
        tiny_model(feature_grid=5)(**tiny_batch())


def test_the_model_refuses_features_of_another_width_and_a_modality_given_twice():
    model, batch = tiny_model(), tiny_batch()
    states, pooled = torch.zeros(2, 17, 16), torch.zeros(2, 16)
    with pytest.raises(ValueError, match="pixel_values and vision_states were both given"):
        model(**batch, vision_states=states, vision_pooled=pooled)
    del batch["pixel_values"]
    with pytest.raises(ValueError, match="vision_states and vision_pooled are 12 and 16 wide"):
        model(**batch, vision_states=states[..., :12], vision_pooled=pooled)
    with pytest.raises(ValueError, match="vision_pooled are 16 and 0 wide"):
        model(**batch, vision_states=states)
    assert model(**batch, vision_states=states.half(), vision_pooled=pooled.half()).logits.shape == (3, 7)


def test_a_worker_process_maps_the_files_itself(cache):
    first = FeatureCache(cache / "vision")
    expected = [value.copy() for value in first[3]]
    copied = pickle.loads(pickle.dumps(first))
    assert copied._maps == {}
    assert all(np.array_equal(a, b) for a, b in zip(copied[3], expected, strict=True))


# -------------------------------------------------------------------------------------------------------- what is kept


def test_the_same_picture_under_two_names_is_stored_once(setting, built, tmp_path):
    model, collators, rows, _ = built
    twin = shutil.copy(rows["vision"][0]["image"], tmp_path / "twin.png")
    doubled = {"vision": [*rows["vision"], {"question_id": 99, "question": "?", "image": str(twin)}]}
    report = build(tmp_path / "cache", "vision", model, collators, doubled)
    assert report["rows"] == report["encoded"] == len(rows["vision"])
    first, second = FeatureCache(tmp_path / "cache").locate([rows["vision"][0]["image"], str(twin)])
    assert first == second


def test_a_picture_that_was_replaced_under_its_name_is_another_one(built, tmp_path):
    model, collators, rows, _ = built
    path = shutil.copy(rows["vision"][0]["image"], tmp_path / "picture.png")
    build(tmp_path / "cache", "vision", model, collators, {"vision": [{**rows["vision"][0], "image": str(path)}]})
    assert FeatureCache(tmp_path / "cache").locate([str(path)]) == [0]
    Image.new("RGB", (40, 36), "orange").save(path)
    with pytest.raises(ValueError, match=f"lacks 1 of 1 images, the first is '{path}'"):
        FeatureCache(tmp_path / "cache").locate([str(path)])


def test_a_file_is_on_the_disk_whole_before_it_has_its_name_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append((os.fstat(handle).st_size, os.listdir(tmp_path))))
    write_whole(tmp_path / "shard.bin", b"features")
    ((size, names),) = synced
    assert size == len(b"features")
    assert "shard.bin" not in names
    assert os.listdir(tmp_path) == ["shard.bin"]
    assert (tmp_path / "shard.bin").stat().st_mode & 0o777 == 0o644
    monkeypatch.setattr(os, "replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "other.bin", b"more")
    assert os.listdir(tmp_path) == ["shard.bin"]


@pytest.mark.parametrize("modality", MODALITIES)
def test_an_interrupted_build_goes_on_and_ends_with_the_files_of_an_uninterrupted_one(
    built, tmp_path, small_shards, monkeypatch, modality
):
    model, collators, rows, _ = built
    build(tmp_path / "whole", modality, model, collators, rows)
    encode, batches = type(model.ume).encode, []

    def interrupted(self, *args, **kwargs):
        batches.append(1)
        if len(batches) > 4:  # in the middle of the second shard
            raise KeyboardInterrupt
        return encode(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(model.ume), "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "cut", modality, model, collators, rows)
    assert sorted(path.name for path in (tmp_path / "cut").glob("shard-*")) == ["shard-00000.bin", "shard-00000.json"]
    with pytest.raises(ValueError, match=r"lacks \d+ of \d+ .* complete it with `ume cache`"):
        FeatureCache(tmp_path / "cut").locate([row[MODALITIES[modality].column] for row in rows[modality]])
    # What a kill leaves behind in the middle of writing: a temporary file, features without their index.
    (tmp_path / "cut" / ".shard-00001.bin.abc").write_bytes(b"half")
    (tmp_path / "cut" / "shard-00001.bin").write_bytes(b"whole, but no index yet")
    kept = (tmp_path / "cut" / "shard-00000.bin").stat().st_mtime_ns
    report = build(tmp_path / "cut", modality, model, collators, rows)
    assert report["encoded"] == len(rows[modality]) - 3
    assert (tmp_path / "cut" / "shard-00000.bin").stat().st_mtime_ns == kept
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_processes_that_share_the_work_write_the_files_of_one_process_whenever_they_come(
    built, tmp_path, small_shards
):
    model, collators, rows, _ = built
    build(tmp_path / "one", "vision", model, collators, rows)
    reports = [build(tmp_path / "two", "vision", model, collators, rows, process=p, processes=2) for p in (1, 0)]
    assert [report["complete"] for report in reports] == [False, True]
    assert sum(report["encoded"] for report in reports) == len(rows["vision"])
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_cache_grows_with_the_data_and_keeps_what_it_holds(built, tmp_path, small_shards):
    model, collators, rows, _ = built
    build(tmp_path / "cache", "vision", model, collators, {"vision": rows["vision"][:4]})
    before = contents(tmp_path / "cache")
    report = build(tmp_path / "cache", "vision", model, collators, rows)
    assert report["encoded"] == len(rows["vision"]) - 4
    after = contents(tmp_path / "cache")
    assert all(after[name] == content for name, content in before.items() if name != "manifest.json")
    fresh = build(tmp_path / "fresh", "vision", model, collators, rows)
    images = [row["image"] for row in rows["vision"]]
    grown, fresh = (FeatureCache(tmp_path / name).batch(images) for name in ("cache", "fresh"))
    torch.testing.assert_close(grown["vision_states"], fresh["vision_states"], atol=2e-3, rtol=0)


def test_a_broken_image_is_an_error_that_names_it(built, tmp_path):
    model, collators, rows, _ = built
    (tmp_path / "broken.png").write_text("no picture")
    for name, sentence in (("broken.png", "cannot be read.*question_id 7"), ("absent.png", "cannot be read")):
        row = {"question_id": 7, "question": "?", "image": str(tmp_path / name)}
        with pytest.raises(VQADataError, match=f"{name}.*{sentence}"):
            build(tmp_path / "cache", "vision", model, collators, {"vision": [*rows["vision"], row]})


def test_features_beyond_float16_are_refused(setting, tmp_path):
    model, collators, rows, _ = setting.built()
    with torch.no_grad():
        model.ume.vision_model.layernorm.weight.mul_(1e6)
    with pytest.raises(ValueError, match=r"image0.png' do not fit into float16"):
        build(tmp_path, "vision", model, collators, rows)


# ----------------------------------------------------------------------------------------------------- what is refused


def changed(built, modality, part):
    """The key of a run that differs in one part."""
    model, collators, _, _ = built
    model, collator = copy.deepcopy(model), copy.deepcopy(collators[modality])
    if part == "weights":
        with torch.no_grad():
            next(model.ume.encoder(modality).parameters()).view(-1)[0] += 1e-3
    elif part == "encoder.hidden_act":
        model.ume.encoder(modality).config.hidden_act = "relu"
    elif part == "pooling":
        model.ume._adapters[modality].pooling = "mean"
    elif part == "feature_grid":
        model.ume._adapters[modality].feature_grid = 1
    elif part == "processor.image_mean":
        collator.processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    elif part == "processor.image_processor_type":

        class OtherProcessor(type(collator.processor.image_processor)):
            pass

        collator.processor.image_processor = OtherProcessor.from_dict(collator.processor.image_processor.to_dict())
    elif part == "processor.size.height":
        collator.processor.image_processor.size = {"height": 24, "width": 16}
    elif part == "tokenizer":
        collator.processor.tokenizer = words_tokenizer(["other words"])
    elif part == "max_question_length":
        collator.max_question_length = 5
    return describe(modality, model, collator)


@pytest.mark.parametrize(
    ("modality", "part"),
    [
        *((modality, part) for modality in MODALITIES for part in ("weights", "encoder.hidden_act", "pooling")),
        *(("vision", part) for part in ("feature_grid", "processor.image_mean")),
        *(("vision", f"processor.{part}") for part in ("size.height", "image_processor_type")),
        *(("text", part) for part in ("tokenizer", "max_question_length")),
    ],
)
def test_a_cache_of_other_features_is_refused_and_the_sentence_says_what_differs(built, cache, modality, part):
    FeatureCache(cache / modality).check(changed(built, modality, None))
    with pytest.raises(ValueError, match=rf"does not match this run: {part} is .* in the cache and .* here\."):
        FeatureCache(cache / modality).check(changed(built, modality, part))


def test_the_builder_refuses_a_folder_with_other_features(setting, own_cache):
    model, collators, rows, _ = setting.built("--vision_pooling", "mean")
    with pytest.raises(ValueError, match=r"does not match this run: pooling is 'cls' in the cache and 'mean' here"):
        build(own_cache / "vision", "vision", model, collators, rows)


def test_a_key_survives_use_of_the_tokenizer_and_renamed_weights(built):
    model, collators, _, _ = built
    before = describe("text", model, collators["text"])
    collators["text"].processor.tokenizer(["is it red?"], padding=True, truncation=True, max_length=3)
    assert describe("text", model, collators["text"]) == before
    encoder = model.ume.vision_model
    saved = saved_names(encoder)
    assert saved.keys() != encoder.state_dict().keys(), "this release has renamed the layers of ViT"
    # As a release has them that goes by the saved names, inside of another model and in another order.
    earlier = SimpleNamespace(state_dict=lambda: {f"vision.{name}": saved[name] for name in sorted(saved)[::-1]})
    assert keys.weights_digest(earlier) == keys.weights_digest(encoder)


def test_what_an_encoder_was_loaded_by_neither_counts_nor_changes():
    encoder = tiny_model().ume.vision_model
    names = list(saved_names(encoder))
    encoder._weight_conversions = ["as a file had it"]
    assert list(saved_names(encoder)) == names
    assert encoder._weight_conversions == ["as a file had it"]
    del encoder._weight_conversions
    saved_names(encoder)
    assert not hasattr(encoder, "_weight_conversions")


def exchange(encoder, first, second):
    """Two weights of one shape change places."""
    state = encoder.state_dict()
    assert state[first].shape == state[second].shape
    encoder.load_state_dict({**state, first: state[second].clone(), second: state[first].clone()})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("encoder.layer.0.attention.self.query.weight", "encoder.layer.1.attention.self.query.weight"),
        ("encoder.layer.0.attention.self.query.weight", "encoder.layer.0.attention.self.key.weight"),
        ("encoder.layer.0.attention.output.LayerNorm.weight", "encoder.layer.0.output.LayerNorm.weight"),
        ("encoder.layer.1.output.dense.bias", "embeddings.LayerNorm.bias"),
    ],
)
def test_the_key_changes_when_two_weights_change_places(first, second):
    encoder = BertModel(BertConfig(vocab_size=20, **{**TINY, "num_hidden_layers": 2})).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = keys.weights_digest(encoder)
    exchange(encoder, first, second)
    assert keys.weights_digest(encoder) != before
    exchange(encoder, first, second)
    assert keys.weights_digest(encoder) == before
    assert keys.weights_digest(encoder.bfloat16()) != before


def test_a_picture_put_in_the_place_of_another_is_noticed_also_with_its_size_and_time(tmp_path):
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    path.write_bytes(b"one")
    stamps = file_stamps([str(path)], {})
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self, own=Path.read_bytes: read.append(self) or own(self))
        assert file_stamps([str(path)], stamps) == stamps
        assert read == [], "a file that nobody touched is not read again"
    status = path.stat()
    other.write_bytes(b"two")
    path.write_bytes(b"two")  # written into, or another one moved there
    for replace in (lambda: None, lambda: os.replace(other, path)):
        replace()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        found = file_stamps([str(path)], stamps)[str(path)]
        assert found[:2] == stamps[str(path)][:2]
        assert found[-1] == hashlib.sha256(b"two").hexdigest()


def test_what_changes_tokens_changes_the_key_of_a_tokenizer_and_what_does_not_leaves_it(built):
    _, collators, _, _ = built
    tokenizer = copy.deepcopy(collators["text"].processor.tokenizer)
    before = keys.tokenizer_digest(tokenizer)
    tokenizer.padding_side = "left"  # of padding, features hold nothing
    assert keys.tokenizer_digest(tokenizer) == before
    tokenizer.truncation_side = "left"
    assert keys.tokenizer_digest(tokenizer) != before
    tokenizer.truncation_side = "right"
    types = {"input_ids", "token_type_ids"} ^ ({"token_type_ids"} & set(tokenizer.model_input_names))
    tokenizer.model_input_names = sorted(types)
    assert keys.tokenizer_digest(tokenizer) != before


def test_a_tokenizer_in_python_is_known_by_its_files_and_options(tmp_path):
    def digest(merges="#version: 0.2\na b\n", **options):
        (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "<unk>": 3, "c": 4, "bc": 5}')
        (tmp_path / "merges.txt").write_text(merges)
        files = str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")
        return keys.tokenizer_digest(CTRLTokenizer(*files, **options))

    assert digest() == digest()
    assert digest(clean_up=True, split=False) == digest(split=False, clean_up=True)
    assert digest(merges="#version: 0.2\nb c\n") != digest()
    assert digest(split_special_tokens=True) != digest()


def test_a_long_setting_that_differs_is_told_by_its_beginning():
    cached, own = {"tokenizer": "a" * 64, "pooling": "a" * 58}, {"tokenizer": "b" * 64, "pooling": "b" * 59}
    assert differences(cached, own) == [
        f"pooling is '{'a' * 58}' in the cache and 'bbbbbbbbbbb…' here",
        "tokenizer is 'aaaaaaaaaaa…' in the cache and 'bbbbbbbbbbb…' here",
    ]


def test_a_setting_that_has_parts_on_one_side_only_is_told_whole():
    assert differences({"size": {"height": 4}}, {"size": 4}) == ["size is {'height': 4} in the cache and 4 here"]


def test_a_cache_of_an_earlier_format_is_refused_with_what_to_do(built, own_cache):
    model, collators, rows, _ = built
    path = own_cache / "vision" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["key"]["format"] = 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"is of format 1, and this release reads format 2: .* Delete the folder and"):
        build(own_cache / "vision", "vision", model, collators, rows)


def test_stamps_of_files_that_had_to_be_read_are_kept_for_the_next_run(built, own_cache):
    model, collators, _, data = built
    (own_cache / "vision" / "files.json").unlink()
    open_features(own_cache, model, collators["vision"], ["vision"], [data.train])
    kept = json.loads((own_cache / "vision" / "files.json").read_text())
    assert kept.keys() == set(data.train["image"][:])


def test_stamps_of_all_lookups_are_kept_together(built, own_cache):
    images = [row["image"] for row in built[2]["vision"]]
    (own_cache / "vision" / "files.json").unlink()
    cache = FeatureCache(own_cache / "vision")
    assert cache.locate(images[:3]) + cache.locate(images[2:]) == cache.locate([*images[:3], *images[2:]])
    cache.remember_files()
    assert json.loads((own_cache / "vision" / "files.json").read_text()).keys() == set(images)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: os.truncate(folder / "shard-00000.bin", 100), r"shard-00000.bin has 100 bytes instead of \d+"),
        (lambda folder: (folder / "shard-00000.bin").unlink(), "shard-00000.bin is missing"),
        (lambda folder: (folder / "shard-00000.json").write_text("{}"), "shard-00000.json is not as it was written"),
        (lambda folder: (folder / "manifest.json").unlink(), "There is no feature cache"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON"),
    ],
)
def test_a_damaged_cache_is_refused_when_it_is_opened(own_cache, damage, sentence):
    damage(own_cache / "vision")
    with pytest.raises(ValueError, match=sentence):
        FeatureCache(own_cache / "vision")


def test_a_flipped_bit_is_found_by_verify_and_only_that_shard_is_computed_anew(built, tmp_path, small_shards):
    model, collators, rows, _ = built
    build(tmp_path, "vision", model, collators, rows)
    whole = contents(tmp_path)
    path = tmp_path / "shard-00001.bin"
    damaged = bytearray(path.read_bytes())
    damaged[7] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=rf"{path} is not as it was written. Delete that file and build"):
        FeatureCache(tmp_path).verify()
    path.unlink()
    assert build(tmp_path, "vision", model, collators, rows)["encoded"] == 3
    assert contents(tmp_path) == whole
    FeatureCache(tmp_path).verify()


def test_only_the_caches_of_frozen_encoders_are_read_and_only_what_the_run_looks_at(built, cache, tmp_path):
    model, collators, _, data = built
    both = copy.copy(collators["text"])
    both.inputs = "both"
    assert open_features(cache, model, both, ["text", "vision"], [data.train]).keys() == {"text", "vision"}
    assert open_features(cache, model, both, ["vision"], [data.train]).keys() == {"vision"}
    assert open_features(cache, model, collators["text"], ["text", "vision"], [data.train]).keys() == {"text"}
    shutil.copytree(cache / "vision", tmp_path / "vision")
    with pytest.raises(ValueError, match="holds features of vision alone, while the recipe freezes text: features re"):
        open_features(tmp_path, model, both, ["text"], [data.train])
    with pytest.raises(ValueError, match="is no feature cache, while the recipe freezes text"):
        open_features(tmp_path / "absent", model, both, ["text"], [data.train])


# ------------------------------------------------------------------------------------------------------- from a recipe


@pytest.fixture(scope="module")
def trained(setting, cache):
    """Results of a run that read the cache, in `setting.folder / "run"`; the encoders would have raised."""

    def no_encoder(self, *args, **kwargs):
        raise AssertionError("an encoder ran")

    from modeling_ume import UMEModel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UMEModel, "_encode", no_encoder)
        recipe = setting.recipe("--feature_cache", cache, "--beside", "question_only")
        return train_and_evaluate(recipe)


def test_a_recipe_trains_and_is_scored_without_running_an_encoder_and_blind_runs_too(trained):
    assert [run["name"] for run in trained["comparison"]] == ["ume", "question_only"]
    assert trained["arguments"]["model"]["feature_cache"]


def test_a_model_trained_from_the_cache_answers_from_pixels_with_the_same_score(setting, trained):
    recipe = setting.recipe()
    data = load_data(recipe.data, setting.folder)
    results = evaluate_checkpoint(setting.recipe().training.output_dir, data.scored)
    assert results["scores"] == trained["scores"]


def test_training_from_the_cache_is_training_from_pixels_up_to_rounding(setting, trained, tmp_path):
    live = train_and_evaluate(setting.recipe("--output_dir", tmp_path / "live"))
    for ours, theirs in zip(trained["epochs"], live["epochs"], strict=True):
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], abs=5e-3)


def test_training_refuses_a_cache_that_lacks_images_or_is_of_other_encoders(setting, own_cache, tmp_path):
    out = ["--output_dir", tmp_path / "run"]
    with pytest.raises(ValueError, match=r"weights is .* in the cache and .* here"):
        train_and_evaluate(setting.recipe("--feature_cache", own_cache, *out, "--seed", 1))
    more = Setting(tmp_path / "more", num_images=10)
    # The same questions and encoders, but two pictures more.
    with pytest.raises(ValueError, match=r"vision lacks 2 of 10 images, the first is '.*image\d.png'"):
        train_and_evaluate(more.recipe("--feature_cache", own_cache, *out, "--overwrite_output", "true"))


def test_a_recipe_without_frozen_encoders_refuses_a_cache(setting):
    with pytest.raises(ValueError, match="no encoder is frozen: features replace frozen encoders only"):
        setting.recipe("--feature_cache", "x", "--freeze_text", "false", "--freeze_vision", "false")


def test_the_command_builds_and_verifies_and_does_nothing_twice(setting, cache, tmp_path, capsys):
    argv = [str(setting.path), "--feature_cache", str(tmp_path / "made")]
    assert main(["cache", *argv, "--verify"]) == 0
    printed = capsys.readouterr().out
    assert "text: every byte is as it was written." in printed
    assert contents(tmp_path / "made" / "text") == contents(cache / "text")
    assert contents(tmp_path / "made" / "vision") == contents(cache / "vision")
    assert main(["cache", *argv, "--modalities", "vision"]) == 0
    assert "vision: 0 rows encoded" in capsys.readouterr().out
    assert main(["cache", str(setting.path)]) == 2
    assert capsys.readouterr().err == "error: There is nowhere to write to: give --feature_cache DIR.\n"


# ------------------------------------------------------------------------------------------------------------ at scale


def cache_command(setting, folder, *more):
    fields = ["--feature_cache", str(folder), "--modalities", "vision", *more]
    return ["-m", "training_ume.commands", "cache", str(setting.path), *fields]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_processes_under_torchrun_write_the_files_of_one(tmp_path):
    setting = Setting(tmp_path, num_images=600)
    subprocess.run([sys.executable, *cache_command(setting, tmp_path / "one")], env=ENVIRONMENT, check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, *cache_command(setting, tmp_path / "two")],
        env=ENVIRONMENT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.count("rows encoded") == 2
    assert contents(tmp_path / "two" / "vision") == contents(tmp_path / "one" / "vision")


@pytest.mark.slow
def test_kill_9_and_the_same_command_again_give_the_files_of_an_uninterrupted_build(tmp_path):
    setting = Setting(tmp_path, num_images=1500)
    subprocess.run([sys.executable, *cache_command(setting, tmp_path / "whole")], env=ENVIRONMENT, check=True)
    command = [sys.executable, *cache_command(setting, tmp_path / "cut")]
    killed = subprocess.Popen(command, env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "vision" / "shard-00001.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "cut" / "vision" / "shard-00005.json").exists()
    done = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    encoded = int(done.stdout.split("vision: ")[1].split(" rows")[0].replace(",", ""))
    assert 0 < encoded <= 1500 - 2 * MODALITIES["vision"].shard_rows
    assert contents(tmp_path / "cut" / "vision") == contents(tmp_path / "whole" / "vision")
