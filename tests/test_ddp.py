"""Two processes of torchrun learn what one learns from the batch of both, and one that dies ends the run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from vqa_files import TINY, write_tiny_recipe, write_vqa_files

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
# Runs train.py and writes down which questions each process trained on, and on request kills one of them.
WATCHED = """
import os, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.environ["SCRIPTS"])
import train
from training_ume.trainer import UMETrainer
training_step, rank = UMETrainer.training_step, os.environ.get("RANK", "0")

def watched(self, model, inputs, *args, **kwargs):
    if os.environ.get("DIES") == rank and self.state.global_step == 2:
        raise RuntimeError("the second worker has no more memory")
    return training_step(self, model, inputs, *args, **kwargs)

class Collator:
    def __init__(self, collator): self.collator = collator
    def __getattr__(self, name): return getattr(self.collator, name)
    def __call__(self, rows):
        with open(os.path.join(os.environ["SEEN"], rank), "a") as file:
            file.write(" ".join(str(row["question_id"]) for row in rows) + "\\n")
        return self.collator(rows)

def get_train_dataloader(self, original=UMETrainer.get_train_dataloader):
    loader = original(self)
    loader.collate_fn = Collator(loader.collate_fn)
    return loader

UMETrainer.training_step, UMETrainer.get_train_dataloader = watched, get_train_dataloader
sys.exit(train.main(sys.argv[1:]))
"""


def run(folder, processes, batch_size, **environment):
    """Trains the tiny recipe without dropout; the finished process and the questions of each step, by process."""
    seen = folder / f"seen{processes}"
    seen.mkdir()
    watched = folder / "watched.py"
    watched.write_text(WATCHED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    recipe = str(folder / "tiny.yaml")
    output = ["--output_dir", str(folder / f"run{processes}"), "--per_device_train_batch_size", str(batch_size)]
    done = subprocess.run(
        [*launcher, str(watched), "train.py", recipe, *output],
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "SCRIPTS": str(ROOT / "scripts"), "SEEN": str(seen), "OMP_NUM_THREADS": "1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    lines = [[line.split() for line in (seen / str(rank)).read_text().splitlines()] for rank in range(processes)]
    return done, lines


@pytest.fixture
def folder(tmp_path):
    """A folder with a recipe without dropout, for 33 questions to train on: the last step is half full, and uneven."""
    files = write_vqa_files(tmp_path / "data", num_images=14)
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **TINY}
    write_tiny_recipe(
        tmp_path / "tiny.yaml",
        files,
        text_config={"model_type": "bert", "max_position_embeddings": 16, **without},
        vision_config={"model_type": "vit", "patch_size": 8, **without},
        fusion_dropout=0.0,
        classifier_dropout=0.0,
        validation_fraction=0.2,
        num_train_epochs=2,
        ddp_backend="gloo",
    )
    return tmp_path


def test_two_processes_equal_one_on_the_same_global_batch(folder):
    (one, whole), (two, parts) = run(folder, 1, 6), run(folder, 2, 3)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    steps = [first + second for first, second in zip(*parts, strict=True)]
    assert steps == whole[0]
    epoch = [question for step in steps[: len(steps) // 2] for question in step]
    assert len(set(epoch)) == len(epoch) == 33
    assert [len(part[-1]) for part in parts] == [1, 2]  # the processes' losses do not weigh the same here
    results = [json.loads((folder / f"run{n}" / "results.json").read_text()) for n in (1, 2)]
    last = f"checkpoint-{len(steps)}/trainer_state.json"
    states = [json.loads((folder / f"run{n}" / last).read_text()) for n in (1, 2)]
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states]
    assert len(losses[0]) == len(steps)
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert results[0]["scores"] == results[1]["scores"]
    evaluations = [[epoch["vqa_accuracy"] for epoch in result["epochs"]] for result in results]
    assert evaluations[0] == evaluations[1]
    first, second = (load_file(folder / f"run{n}" / "model.safetensors") for n in (1, 2))
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-4


def test_a_worker_that_dies_ends_the_run_with_its_reason(folder):
    done, _ = run(folder, 2, 4, DIES="1")
    assert done.returncode != 0
    assert "the second worker has no more memory" in done.stderr
    assert not (folder / "run2" / "results.json").exists()
