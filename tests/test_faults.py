"""Nothing that happens to a run costs more than the work since its last checkpoint: kills, full disks, bad numbers."""

import errno
import math
import os
import random

import faults
import pytest
import safetensors.torch
import torch
from vqa_files import write_tiny_recipe, write_vqa_files

import training_ume.training.loaders
from training_ume.commands import train
from training_ume.records.checkpoints import last_whole_checkpoint
from training_ume.records.files import WriteError, read_json, write_json, write_whole
from training_ume.training.trainer import LossError, UMETrainer

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def recipe(tmp_path):
    """Writes the tiny recipe with changes; its path."""
    files = write_vqa_files(tmp_path / "data")

    def write(**fields):
        return str(write_tiny_recipe(tmp_path / "tiny.yaml", files, **fields))

    return write


# ------------------------------------------------------------------------------------------------ a loss that is none


@pytest.mark.parametrize(("accumulated", "checkpoint", "step"), [(1, 5, 8), (2, 3, 5)])
def test_a_loss_that_is_no_number_stops_the_run_and_names_its_questions(
    recipe, tmp_path, monkeypatch, capsys, accumulated, checkpoint, step
):
    met = []

    def poisoned(*args, original=training_ume.training.loaders.with_question_ids):
        batch = original(*args)
        met.append(batch["question_ids"])
        if len(met) == 8:  # of five batches an epoch, the third of the second
            batch["pixel_values"][0, 0, 0, 0] = math.nan
        return batch

    monkeypatch.setattr(training_ume.training.loaders, "with_question_ids", poisoned)
    assert train.main([recipe(gradient_accumulation_steps=accumulated)]) == 2
    error, run = capsys.readouterr().err, tmp_path / "run"
    assert f"error: The loss is nan in step {step}, in the batch with the question_ids {join(met[7])}. " in error
    assert f"The last checkpoint is {run / f'checkpoint-{checkpoint}'}. To go on" in error
    assert last_whole_checkpoint(run) == (run / f"checkpoint-{checkpoint}", [])


def join(ids):
    return ", ".join(map(str, ids))


@pytest.mark.parametrize("moment", ["should_log", "should_evaluate", "should_save"])
def test_losses_that_wait_are_looked_at_before_anything_is_made_of_them(recipe, monkeypatch, moment):
    looks = []

    def train_only(self, *args, **kwargs):
        self._unchecked = [(5, [3, 4], torch.tensor(1.0)), (6, [5, 7], torch.tensor(math.inf))]
        self.control.should_log = self.control.should_evaluate = self.control.should_save = False
        setattr(self.control, moment, True)
        looks.append(1)
        self._maybe_log_save_evaluate(None, None, None, None, 1.0, None, 0.0)

    monkeypatch.setattr("transformers.Trainer.train", train_only)
    with pytest.raises(LossError, match=r"The loss is inf in step 6, in the batch with the question_ids 5, 7\."):
        train.train_and_evaluate(train.parse_recipe([recipe()]))
    assert looks


# ---------------------------------------------------------------------------------------------------------- full disks


def torch_finds_no_room(*args, **kwargs):
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 598")


def a_stream_finds_no_room(*args, **kwargs):
    # Where the last bytes of the archive meet the end of the disk.
    raise RuntimeError("basic_ios::clear: iostream error")


def safetensors_finds_no_room(*args, **kwargs):
    raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def python_finds_no_room(*args, **kwargs):
    raise FULL


@pytest.mark.parametrize(
    ("place", "full", "reason"),
    [
        ("torch.save", torch_finds_no_room, "not all of it fits"),
        ("torch.save", a_stream_finds_no_room, "not all of it fits"),
        ("transformers.modeling_utils.safe_save_file", safetensors_finds_no_room, "No space left on device"),
        ("transformers.trainer_callback.TrainerState.save_to_json", python_finds_no_room, "No space left on device"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_a_sentence_and_the_last_one_stays(
    recipe, tmp_path, monkeypatch, capsys, place, full, reason
):
    save = UMETrainer._save_checkpoint
    with monkeypatch.context() as patch:

        def second_time(self, *args, **kwargs):
            if self.state.global_step > 5:
                patch.setattr(place, full)
            save(self, *args, **kwargs)

        patch.setattr(UMETrainer, "_save_checkpoint", second_time)
        assert train.main([recipe()]) == 2
    error, run = capsys.readouterr().err, tmp_path / "run"
    assert f"error: {run / 'checkpoint-10'} cannot be written: " in error
    assert reason in error
    assert "MB are free there; make room, or choose another place. The last checkpoint is " in error
    assert f"{run / 'checkpoint-5'}. To go on, repeat the command with --resume_from_checkpoint." in error
    assert last_whole_checkpoint(run) == (run / "checkpoint-5", [])
    assert not (run / "checkpoint-10").exists()


def test_what_is_no_fault_of_the_disk_keeps_its_own_error(recipe, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(UMETrainer, "_save_rng_state", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        train.main([recipe()])


def test_a_result_that_does_not_fit_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"score": 1})
    monkeypatch.setattr("training_ume.records.files.os.chmod", python_finds_no_room)
    with pytest.raises(WriteError, match=r"results.json cannot be written: No space left on device\. [\d,]+ MB are"):
        write_json(path, {"score": 2})
    assert read_json(path) == {"score": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_features_that_do_not_fit_leave_nothing_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr("training_ume.records.files.os.fsync", python_finds_no_room)
    with pytest.raises(WriteError, match=r"shard-00000.bin cannot be written: No space left on device\."):
        write_whole(tmp_path / "shard-00000.bin", b"features")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------ real faults, done to real processes

# How often; `python scripts/try_faults.py` does it more often and writes docs/reliability.md's table.
TRIALS = 3


@pytest.mark.slow
@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_run_survives(name, tmp_path):
    fault = faults.FAULTS[name]
    if fault.needs_disk and not faults.can_mount():
        pytest.skip("Only root can mount a small disk.")
    scene = fault.scene(tmp_path)
    for number in range(TRIALS):
        fault.trial(scene, random.Random(f"{name} {number}"), f"trial{number}")
