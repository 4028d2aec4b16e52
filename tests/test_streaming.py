"""Shards hold what the files held, a stream gives every question once an epoch, and a resumed run reads on."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_trainer import assert_same_weights, interrupt_after
from vqa_files import write_tiny_recipe, write_vqa_files

import training_ume.data.streaming
import training_ume.evaluation.baselines
import training_ume.evaluation.scores
import training_ume.evaluation.scoring
import training_ume.training.run
from configuration_ume.parsing import parse_recipe
from training_ume.data.collator import VQACollator
from training_ume.data.images import open_image
from training_ume.data.json_entries import VQADataError
from training_ume.data.streaming import FORMAT, INDEX, StreamedQuestions, open_shards, shuffled
from training_ume.evaluation.answering import predict
from training_ume.evaluation.load import load_checkpoint
from training_ume.training.prepare import load_data, shard_data
from training_ume.training.run import train_and_evaluate

SHARDS = 4


@pytest.fixture
def files(tmp_path):
    """24 images, of which 18 are trained on; jpegs with noise, so that pixels tell how they were decoded."""
    files = write_vqa_files(tmp_path / "data", num_images=24)
    random = np.random.default_rng(0)
    for path in Path(files["train_images"]).iterdir():
        noisy = np.asarray(Image.open(path)) + random.integers(-20, 21, (36, 40, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path.with_suffix(".jpg"))
        path.unlink()
    return {**files, "train_image_pattern": "image{image_id}.jpg"}


@pytest.fixture
def recipe(tmp_path, files):
    def make(output="run", source="vqa_v2", **fields):
        fields = {"num_train_epochs": 2, "output_dir": str(tmp_path / output), "source": source, **fields}
        path = write_tiny_recipe(tmp_path / "tiny.yaml", files, **fields)
        changes = ["--dataset_name", str(tmp_path / "shards")] if source == "stream" else []
        return parse_recipe([str(path), *changes])

    return make


@pytest.fixture
def shards(recipe, tmp_path):
    shard_data(recipe().data, tmp_path / "shards", SHARDS)
    return tmp_path / "shards"


def test_shards_give_the_rows_answers_and_pixels_of_the_files(recipe, shards):
    data, streamed = load_data(recipe().data, Path(".")), load_data(recipe(source="stream").data, Path("."))
    assert streamed.vocabulary.id2label == data.vocabulary.id2label
    assert (streamed.summary, streamed.baselines) == (data.summary, data.baselines)
    for part, streamed_part in zip(data.parts().values(), streamed.parts().values(), strict=True):
        rows = {row["question_id"]: row for row in part}
        assert len(streamed_part) == len(rows)
        for row in (row for batch in streamed_part.batches(5) for row in batch):
            before = rows.pop(row["question_id"])
            with open_image(before["image"]) as old, open_image(row["image"], row["image_bytes"]) as new:
                assert np.array_equal(np.asarray(old), np.asarray(new))
            assert {**before, "image": ""} == {name: row[name] for name in before} | {"image": ""}
        assert not rows
    assert Counter(streamed.train["question"][:]) == Counter(data.train["question"][:])


def test_an_image_is_stored_once_and_the_questions_are_spread_evenly(shards):
    index = json.loads((shards / "index.json").read_text())
    for part in index["parts"].values():
        counts = [sum(shard["questions"]) for shard in part["shards"]]
        assert len(counts) == SHARDS
        assert max(counts) - min(counts) <= 3  # an image has three questions
        assert sum(len(shard["questions"]) for shard in part["shards"]) == part["images"]
    assert index["parts"]["train"]["images"] == 18


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_every_question_comes_once_an_epoch_in_equally_many_steps(shards, processes):
    _, parts = open_shards(shards)
    orders = []
    for epoch in (0, 1):
        streams = [parts["train"].batches(4, processes, process, seed=7) for process in range(processes)]
        for stream in streams:
            stream.set_epoch(epoch)
        batches = [list(stream) for stream in streams]
        assert {len(part) for part in batches} == {len(streams[0])}
        assert max(len(batch) for part in batches for batch in part) <= 4
        ids = [row["question_id"] for part in batches for batch in part for row in batch]
        assert len(set(ids)) == len(ids) == 54
        # Where each question stands in the table is known without reading.
        table = parts["train"]["question_id"][:]
        for step, positions in enumerate(streams[0].positions()):
            for process in range(processes):
                expected = [table[position] for position in positions[process]]
                assert [row["question_id"] for row in batches[process][step]] == expected
        images = sum(len({row["image"] for row in batch}) for part in batches for batch in part)
        assert images <= 18 + len(streams[0]) * processes  # the end of a batch cuts one image at most
        orders.append(ids)
    assert orders[0] != orders[1]


def test_skipped_batches_are_not_read(shards, monkeypatch):
    _, parts = open_shards(shards)
    whole = list(parts["train"].batches(4, seed=7))
    opened = []
    stream = StreamedQuestions._stream
    monkeypatch.setattr(
        StreamedQuestions, "_stream", lambda self, files, columns: stream(self, opened.append(files) or files, columns)
    )
    monkeypatch.setattr(training_ume.data.streaming, "SHUFFLE_IMAGES", 2)
    batches = parts["train"].batches(4, seed=7)
    near = list(batches)
    batches.skip(10)
    rest = list(batches)
    assert rest == [[]] * 10 + near[10:]
    assert near != whole
    assert [len(files) for files in opened] == [4, 2]
    assert list(batches) == near  # the next pass skips nothing


def test_the_shuffle_buffer_gives_every_item_once_and_none_long_before_its_turn():
    drawn = list(shuffled(range(1000), 50, np.random.default_rng(0)))
    assert sorted(drawn) == list(range(1000)) != drawn
    assert all(item <= turn + 50 for turn, item in enumerate(drawn))


def test_a_recipe_trains_from_shards_and_its_answers_are_those_for_the_files(recipe, shards, monkeypatch):
    scored = []

    def score_answers(answers, rows, score=training_ume.evaluation.scores.score_answers):
        scored.append(dict(zip(rows["question_id"][:], answers, strict=True)))
        return score(answers, rows)

    for module in (training_ume.evaluation.scores, training_ume.evaluation.baselines, training_ume.evaluation.scoring):
        monkeypatch.setattr(module, "score_answers", score_answers)
    streamed = recipe("streamed", "stream", num_train_epochs=3, learning_rate=1e-2, dataloader_num_workers=1)
    results = train_and_evaluate(streamed)
    assert results["epochs"][-1]["step"] == 3 * -(-54 // 4)
    *epochs, final = scored
    best = max(range(3), key=lambda epoch: results["epochs"][epoch]["vqa_accuracy"])
    assert len(set(final.values())) > 1
    assert final == epochs[best]
    data = load_data(recipe().data, Path("."))
    model, processor = load_checkpoint(streamed.training.output_dir)
    answers = predict(model, VQACollator(processor), data.scored, batch_size=8)
    assert final == dict(zip(data.scored["question_id"][:], answers, strict=True))


def test_an_interrupted_run_from_shards_ends_with_the_weights_of_an_uninterrupted_one(recipe, shards, monkeypatch):
    fields = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}
    train_and_evaluate(recipe("whole", "stream", **fields))
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps=23)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(recipe("cut", "stream", **fields))
    cut = recipe("cut", "stream", resume_from_checkpoint=True, **fields)
    folder = Path(cut.training.output_dir)
    assert (folder / "checkpoint-20").is_dir()  # in the middle of the second epoch of 14 steps
    train_and_evaluate(cut)
    assert_same_weights(folder.parent / "whole", folder)


def test_writing_goes_on_after_an_interruption_and_never_overwrites(recipe, shards):
    written = {path.name: path.read_bytes() for path in shards.iterdir()}
    (shards / "train-00002-of-00004.parquet").unlink()
    (shards / "index.json").unlink()
    with pytest.raises(VQADataError, match="cut short"):
        open_shards(shards)
    kept = (shards / "train-00001-of-00004.parquet").stat().st_mtime_ns
    shard_data(recipe().data, shards, SHARDS)
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == written
    assert (shards / "train-00001-of-00004.parquet").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="prepared in another way"):
        shard_data(recipe(min_answer_count=1).data, shards, SHARDS)
    with pytest.raises(ValueError, match="holds other rows"):
        shard_data(recipe(split_seed=1).data, shards, SHARDS)
    with pytest.raises(ValueError, match="no shard of these data"):
        shard_data(recipe().data, shards, 2)


def test_what_does_not_fit_is_said_in_a_sentence(recipe, shards, tmp_path):
    with pytest.raises(ValueError, match="top_k_answers was None and is 3"):
        load_data(recipe(source="stream", top_k_answers=3).data, Path("."))
    with pytest.raises(ValueError, match="cannot fill 50 shards: give a number between 1 and 6"):
        shard_data(recipe().data, tmp_path / "many", 50)
    with pytest.raises(ValueError, match="feature_cache contradicts source=stream"):
        recipe(source="stream", freeze_vision=True, feature_cache="cache")
    _, parts = open_shards(shards)
    with pytest.raises(ValueError, match="4 train shards cannot be dealt evenly to 3 processes"):
        parts["train"].batches(4, 3)
    with pytest.raises(VQADataError, match="neither a folder nor a data set"):
        open_shards("nobody/nothing")
    shutil.copy(shards / "validation-00000-of-00004.parquet", shards / "train-00000-of-00004.parquet")
    with pytest.raises(VQADataError, match="does not hold what index"):
        list(parts["train"].batches(4))


def test_a_broken_image_stops_the_writing_not_the_training(recipe, files, tmp_path):
    path = Path(files["train_images"]) / "image3.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(VQADataError, match=r"image3\.jpg cannot be read"):
        shard_data(recipe().data, tmp_path / "shards", SHARDS)
    assert not (tmp_path / "shards" / "index.json").exists()


@pytest.mark.parametrize("count", [10**12, -1, "9", 2.5, None])
def test_an_index_that_promises_anything_is_refused_before_it_is_planned(count, tmp_path):
    index = {"format": FORMAT, "facts": {}, "parts": {"train": {"shards": [{"file": "f", "questions": [1, count]}]}}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(VQADataError, match=r"index\.json (is damaged|holds more than)"):
        open_shards(tmp_path)
