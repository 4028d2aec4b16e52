"""A run goes on from what is whole, in whatever layout, and deletes only what it knows to be its own, unfinished."""

import json
import os

import pytest
from vqa_files import write_tiny_recipe, write_vqa_files

from configuration_ume.parsing import parse_recipe
from training_ume.commands import train
from training_ume.records.checkpoints import (
    delete,
    holds_weights_only,
    keep_newest,
    last_whole_checkpoint,
    remove_unfinished,
    unfinished,
)
from training_ume.records.files import read_json
from training_ume.training.run import train_and_evaluate
from training_ume.training.trainer import UMETrainer

REST = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
INDEX = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}})
LAYOUTS = {
    "one file": (["model.safetensors", *REST], True),
    "weights only": (["model.safetensors"], True),
    "a pickle": (["pytorch_model.bin", *REST], True),
    "an adapter": (["adapter_model.safetensors", *REST], True),
    "adapters by name": (["default/adapter_model.safetensors", *REST], True),
    "shards": (["index", "model-1-of-2.safetensors", "model-2-of-2.safetensors", *REST], True),
    "a shard is missing": (["index", "model-1-of-2.safetensors", *REST], False),
    "several processes": (["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"], True),
    "FSDP": (["pytorch_model_fsdp_0/x", "optimizer_0/x", "scheduler.pt", "rng_state_0.pth"], True),
    "FSDP, one file": (["pytorch_model_fsdp.bin", "optimizer.bin", "scheduler.pt", "rng_state_0.pth"], True),
    "DeepSpeed": (["latest", "global_step3/x", "rng_state_0.pth"], True),
    "no weights": ([*REST], False),
    "no optimizer": (["model.safetensors", "scheduler.pt", "rng_state.pth"], False),
    "no scheduler": (["model.safetensors", "optimizer.pt", "rng_state.pth"], False),
    "no random numbers": (["model.safetensors", "optimizer.pt", "scheduler.pt"], False),
}


def write_checkpoint(folder, files=("model.safetensors", *REST), state=True):
    for name in files:
        path = folder / ("model.safetensors.index.json" if name == "index" else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(INDEX if name == "index" else "x")
    if state:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": int(folder.name.split("-")[1])}))
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_is_whole_in_every_layout_that_the_trainer_writes(tmp_path, layout):
    files, whole = LAYOUTS[layout]
    checkpoint = write_checkpoint(tmp_path / "checkpoint-3", files)
    assert last_whole_checkpoint(tmp_path) == ((checkpoint, []) if whole else (None, [checkpoint]))
    assert holds_weights_only(checkpoint) == (layout == "weights only")
    assert remove_unfinished(tmp_path) == []
    assert checkpoint.is_dir()


def test_only_what_was_being_written_or_deleted_is_deleted(tmp_path):
    kept = [
        write_checkpoint(tmp_path / "checkpoint-1"),
        write_checkpoint(tmp_path / "checkpoint-2", ["model.safetensors"], state=False),  # a user's own copy
        write_checkpoint(tmp_path / "checkpoint-3-backup", state=False),
        write_checkpoint(tmp_path / "checkpoint-1-2", ["notes.txt"], state=False),
    ]
    cut = write_checkpoint(tmp_path / "checkpoint-5", state=False)
    unfinished(cut).__enter__()  # and the process dies
    last = write_checkpoint(tmp_path / "checkpoint-4")
    (tmp_path / "_checkpoint-4.unfinished").touch()  # killed after its last file
    assert last_whole_checkpoint(tmp_path) == (last, [kept[1], cut])
    assert remove_unfinished(tmp_path) == [cut]
    assert sorted(tmp_path.iterdir()) == sorted([*kept, last])


def test_the_oldest_checkpoints_go_and_nothing_else(tmp_path):
    made = [write_checkpoint(tmp_path / f"checkpoint-{step}") for step in (2, 4, 6, 8)]
    for age, folder in enumerate(made):
        os.utime(folder / "trainer_state.json", (age, age))
    others = [write_checkpoint(tmp_path / "checkpoint-1", ["model.safetensors"], state=False)]
    (tmp_path / "checkpoint-old").mkdir()
    keep_newest(tmp_path, 2, [made[3], made[0]])  # the best one is the oldest
    assert sorted(tmp_path.iterdir()) == sorted([made[0], made[3], *others, tmp_path / "checkpoint-old"])
    keep_newest(tmp_path, None, [])
    delete(made[0])
    assert not made[0].exists()


@pytest.fixture
def recipe(tmp_path):
    files = write_vqa_files(tmp_path / "data", num_images=5)

    def write(**fields):
        return str(write_tiny_recipe(tmp_path / "tiny.yaml", files, num_train_epochs=2, **fields))

    return write


@pytest.mark.parametrize("fields", [{}, {"ema_decay": 0.9, "rubi_weight": 1.0}])
def test_a_run_goes_on_from_checkpoints_with_weights_only(recipe, tmp_path, capsys, monkeypatch, fields):
    fields = {"save_only_model": True, "lr_scheduler_type": "cosine", **fields}
    whole = train_and_evaluate(parse_recipe([recipe(**fields)]))
    run = tmp_path / "run"
    rates = [
        entry["learning_rate"]
        for entry in read_json(run / "checkpoint-6/trainer_state.json")["log_history"]
        if "learning_rate" in entry
    ]
    (run / "results.json").unlink()  # as if it had been killed at its very end
    delete(run / "checkpoint-6")
    (run / "checkpoint-old").mkdir()
    capsys.readouterr()
    assert train.main([recipe(**fields), "--resume_from_checkpoint"]) == 0
    printed = capsys.readouterr().out
    assert f"Going on from {run / 'checkpoint-3'}, which holds weights only (save_only_model)" in printed
    assert "written to its end: checkpoint-old." in printed
    assert (run / "checkpoint-old").is_dir()
    log = read_json(run / "checkpoint-6/trainer_state.json")["log_history"]
    assert [entry["learning_rate"] for entry in log if "learning_rate" in entry] == pytest.approx(rates)
    assert read_json(run / "results.json")["epochs"][0] == whole["epochs"][0]


def test_a_rotation_in_training_leaves_what_the_user_put_there(recipe, tmp_path, monkeypatch):
    train_step = UMETrainer.training_step
    run = tmp_path / "run"

    def put(self, *args, **kwargs):
        for name in ("checkpoint-old", "checkpoint-1-backup"):
            (run / name).mkdir(parents=True, exist_ok=True)
        return train_step(self, *args, **kwargs)

    monkeypatch.setattr(UMETrainer, "training_step", put)
    fields = {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": False, "save_total_limit": 1}
    train_and_evaluate(parse_recipe([recipe(**fields)]))
    assert sorted(path.name for path in run.glob("*checkpoint-*")) == [
        "checkpoint-1-backup",
        "checkpoint-6",
        "checkpoint-old",
    ]
