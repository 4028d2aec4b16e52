"""The same seed on the same machine gives the same model and the same results, bit for bit, and results say how they
came about."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from vqa_files import UME, write_tiny_recipe, write_vqa_files

from training_ume.records.machine import PACKAGES, environment

ROOT = Path(__file__).resolve().parent.parent
# What no two runs have in common: time, and where it was done.
TIMES = re.compile(r"seconds|_per_second|runtime|output_dir|command|folder|logging_dir|path")


def train(recipe: Path, folder: Path, hash_seed: str) -> dict:
    """Trains in a process of its own, whose sets and dicts of strings have an order of their own."""
    command = [*UME, "train", str(recipe), "--output_dir", str(folder)]
    environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def lasting(value):
    """A part of the results without what is never the same."""
    if isinstance(value, dict):
        return {key: lasting(inner) for key, inner in value.items() if not TIMES.search(key)}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_two_runs_with_one_seed_are_the_same_bit_for_bit_and_another_seed_is_not(tmp_path):
    files = write_vqa_files(tmp_path / "data")
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", files, seed=7)
    first, second = (train(recipe, tmp_path / f"run{n}", hash_seed=str(n)) for n in (1, 2))
    assert lasting(first) == lasting(second)
    names = sorted(path.relative_to(tmp_path / "run1") for path in (tmp_path / "run1").rglob("*.safetensors"))
    assert len(names) > 1, "the model and its checkpoints"
    for name in [*names, Path("predictions.jsonl"), Path("tokenizer.json")]:
        digests = {hashlib.sha256((tmp_path / run / name).read_bytes()).hexdigest() for run in ("run1", "run2")}
        assert len(digests) == 1, f"{name} differs"
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", files, seed=8)
    train(recipe, tmp_path / "run3", hash_seed="1")
    assert (tmp_path / "run3/model.safetensors").read_bytes() != (tmp_path / "run1/model.safetensors").read_bytes()

    # And the results file says how to do it again.
    assert (first["recipe"], first["seed"]) == ("tiny", 7)
    assert first["arguments"]["training"]["learning_rate"] == 1e-3
    assert first["arguments"]["model"]["fusion"] == "ume"
    assert {"python", "torch", "transformers", "ume"} <= first["environment"]["versions"].keys()
    assert bool(first["environment"]["git_revision"]) == (ROOT / ".git").exists()


def test_the_environment_of_a_result_names_versions_revision_and_machine():
    found = environment()
    assert {"torch", "transformers", "datasets", "tokenizers", "numpy", "ume"} <= {*PACKAGES} & found[
        "versions"
    ].keys()
    assert all(re.match(r"\d", version) for version in found["versions"].values())
    inside = (ROOT / ".git").exists()
    assert bool(re.fullmatch(r"[0-9a-f]{40}(\+changes)?", found["git_revision"] or "")) == inside
    assert found["hardware"]["cores"] >= 1
    assert found["command"]
