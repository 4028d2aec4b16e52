"""Files and names that were made to do harm: no code of theirs is run, and no token of the user's gets out."""

import ast
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from odd_inputs import saved_checkpoint
from vqa_files import UME, write_tiny_recipe, write_vqa_files

from modeling_ume.loading_ume import load_encoder
from training_ume.evaluation.load import load_checkpoint
from training_ume.hub.publish import answer_elsewhere

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    path
    for folder in ("modeling_ume", "configuration_ume", "training_ume", "metrics", "scripts", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "releases.py"  # loads, with their code, the checkpoints that it has just saved
]
# Calls and modules that run what a file holds, or write where an archive says.
NEVER = {
    "torch.load", "pickle.load", "pickle.loads", "pd.read_pickle", "joblib.load", "dill.load", "marshal.loads",
    "shelve.open", "eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "shutil.unpack_archive",
}  # fmt: skip
NEVER_METHODS = {"extractall", "extract"}
# A fusion head's file is run where its user names it, `my_head.py:MyHead`; a checkpoint's is not (test_own_heads.py).
NAMED_BY_THE_USER = {("exec", "travelling_ume.py")}
NEVER_TRUE = ("shell", "trust_remote_code", "allow_pickle")
FAKE_TOKEN = "hf_" + "NotARealToken" * 3


class Evil:
    """Whoever unpickles it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_no_source_file_runs_what_a_file_holds_or_trusts_remote_code():
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            # What a caller has said, under the same name, is passed on.
            said = {keyword: ("False", keyword, f"args.{keyword}") for keyword in NEVER_TRUE}
            asked = [keyword for keyword in NEVER_TRUE if given.get(keyword, "False") not in said[keyword]]
            if (name, path.name) in NAMED_BY_THE_USER:
                continue
            if name in NEVER or name.rsplit(".", 1)[-1] in NEVER_METHODS or asked:
                found.append(f"{path.relative_to(ROOT)}, line {node.lineno}: {ast.unparse(node)[:80]}")
    assert len(SOURCES) > 50
    assert found == []


def test_pickled_weights_of_an_encoder_are_refused_and_not_run(tmp_path):
    tiny_model().ume.text_model.config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"are a pickle \(pytorch_model\.bin\).*If you trust it"):
        load_encoder(str(tmp_path), "text", "auto")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_of_a_checkpoint_are_refused_and_not_run(tmp_path):
    for file in saved_checkpoint()[0].glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(ValueError, match="No UME model can be loaded from"):
        load_checkpoint(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_checkpoint_or_an_encoder_is_not_run(tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    for file in saved_checkpoint()[0].iterdir():
        (place / file.name).write_bytes(code.encode() if file.suffix == ".py" else file.read_bytes())
    assert any(place.glob("*.py"))
    load_checkpoint(str(place))
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}}'
    )
    (tmp_path / "encoder" / "evil.py").write_text(code)
    with pytest.raises(ValueError, match=r"trust_remote_code|model.type"):
        load_encoder(str(tmp_path / "encoder"), "text", "auto")
    assert not (tmp_path / "ran").exists()


def test_a_model_that_is_tried_before_it_is_published_sees_no_token(tmp_path, monkeypatch):
    seen = {}

    def run(command, env, **options):
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, stdout='{"logits": [], "answer": ""}', stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("training_ume.hub.publish.made_up_parts", lambda *where: ("AutoModel", {}, {}))
    monkeypatch.setenv("HF_TOKEN", FAKE_TOKEN)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", FAKE_TOKEN)
    answer_elsewhere(str(tmp_path), adapter=False)
    assert FAKE_TOKEN not in seen.values()
    assert seen["HF_HUB_OFFLINE"] == "1"


def train(recipe: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [*UME, "train", str(recipe), *arguments]
    environ = {**os.environ, "HF_TOKEN": FAKE_TOKEN, "HUGGING_FACE_HUB_TOKEN": FAKE_TOKEN}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_training_writes_no_token_and_a_resumed_run_executes_no_pickle(tmp_path):
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", write_vqa_files(tmp_path / "data"), num_train_epochs=2)
    done = train(recipe)
    assert done.returncode == 0, done.stderr[-2000:]
    assert FAKE_TOKEN not in done.stdout + done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files), "the file that would hold hub_token"
    assert [path for path in files if FAKE_TOKEN.encode() in path.read_bytes()] == []
    refused = train(recipe, "--hub_token", FAKE_TOKEN)
    assert refused.returncode == 2
    assert "hub_token would be written into the run's files" in refused.stderr
    assert FAKE_TOKEN not in refused.stdout + refused.stderr

    # Of what the Trainer writes beside the weights, transformers reads tensors and plain values only.
    (tmp_path / "run" / "results.json").unlink()
    first, last = sorted((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        whole = (first / name).read_bytes()
        torch.save(Evil(tmp_path / "ran"), first / name)
        resumed = train(recipe, "--resume_from_checkpoint", "true")
        assert not (tmp_path / "ran").exists(), name
        assert resumed.returncode != 0, name
        assert "Weights only load failed" in resumed.stderr, name
        (first / name).write_bytes(whole)
    torch.save(Evil(tmp_path / "ran"), first / "training_args.bin")  # which is written for people, and never read
    resumed = train(recipe, "--resume_from_checkpoint", "true")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert not (tmp_path / "ran").exists()
