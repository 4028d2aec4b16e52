"""Publishing: what is uploaded, what is refused, and whole round trips through a Hub on this machine."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import TOKEN, LoopbackHub
from test_card import write_run
from test_pipeline import make_model, make_processor
from transformers.models.auto import auto_factory
from vqa_files import UME, write_tiny_recipe, write_vqa_files

import training_ume.hub.card
import training_ume.hub.publish
from configuration_ume.parsing import parse_recipe
from training_ume.hub.publish import answer_elsewhere, publish
from training_ume.records.private import ABSOLUTE_PATH, check_files
from training_ume.training.run import train_and_evaluate

ROOT = Path(__file__).parent.parent
# Runs `ume publish` for each case in one process. What would load the model, in two more processes of seconds
# each, compares its weights instead; the slow tests load it.
DRIVER = """
import contextlib, hashlib, io, json, os, sys
from pathlib import Path

from huggingface_hub import constants, hf_hub_download

import training_ume.hub.card
import training_ume.hub.publish
from training_ume.commands import main

def compare_weights(name, adapter, token=None):
    file = "model.safetensors"
    path = Path(name, file) if token is None else Path(hf_hub_download(name, file, token=token))
    digest = hashlib.sha256(path.read_bytes()).digest()
    return {"logits": list(digest) if name != "me/odd" else [0] * 32, "answer": "yes"}

training_ume.hub.publish.answer_elsewhere = compare_weights
training_ume.hub.card.plot_learning_curve = lambda *arguments: arguments[-1].write(b"a curve")
for case in json.loads(sys.stdin.read()):
    environment, endpoint, offline = dict(os.environ), constants.ENDPOINT, constants.HF_HUB_OFFLINE
    os.environ.update(case["environment"])
    constants.ENDPOINT = case["endpoint"] or endpoint
    constants.HF_HUB_OFFLINE = case["offline"]
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main(["publish", *case["argv"]])
    os.environ.clear()
    os.environ.update(environment)
    constants.ENDPOINT, constants.HF_HUB_OFFLINE = endpoint, offline
    print(json.dumps([status, output.getvalue(), errors.getvalue()]), flush=True)
"""


def make_run(folder: Path) -> Path:
    """A folder as `ume train` leaves it, with a tiny model that was not trained."""
    write_run(folder)
    model = make_model()
    model.save_pretrained(folder)
    # What earlier versions wrote for encoders that were read from a folder, with a token.
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["_name_or_path"] = "/home/someone/encoders/reader"
    config["token"] = "hf_" + "x" * 34
    (folder / "config.json").write_text(json.dumps(config))
    make_processor(model).save_pretrained(folder)
    (folder / "arguments.json").write_text('{"data": "/home/someone/data"}')
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "optimizer.pt").write_bytes(b"pickled")
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture(scope="module")
def about(tmp_path_factory):
    path = tmp_path_factory.mktemp("about") / "about.yaml"
    path.write_text("license: mit\ndata: easy_vqa\n")
    return str(path)


def case(*argv, environment=None, endpoint=None, offline=False):
    return {"argv": list(map(str, argv)), "environment": environment or {}, "endpoint": endpoint, "offline": offline}


@pytest.fixture(scope="module")
def session(tmp_path_factory, about):
    """(the hub, the runs' folder, what each case printed and returned) after several calls of `ume publish`."""
    folder = tmp_path_factory.mktemp("runs")
    run, untouched = make_run(folder / "run"), folder / "untouched"
    shutil.copytree(run, untouched)
    card = ["--about", about]
    cases = {
        "first": case(run, "me/fresh", *card, "--private", "--yes"),
        "again": case(run, "me/fresh", "--yes"),
        "taken": case(run, "me/taken", "--yes"),
        "replaced": case(run, "me/taken", "--yes", "--replace"),
        "odd": case(run, "me/odd", "--yes"),
        "dry": case(untouched, "me/dry", *card, "--dry_run", environment={"HF_TOKEN": ""}),
        "nobody there": case(untouched, "me/dry", *card),
        "no card": case(untouched, "me/dry", "--yes"),
        "not mine": case(run, "you/model", "--yes"),
        "wrong token": case(run, "me/other", "--yes", environment={"HF_TOKEN": "hf_wrong"}),
        "no token": case(run, "me/other", "--yes", environment={"HF_TOKEN": ""}),
        "offline": case(run, "me/other", "--yes", offline=True),
        "unreachable": case(run, "me/other", "--yes", endpoint="http://127.0.0.1:9"),
    }
    with LoopbackHub() as hub:
        hub.repos["me/taken"] = {"weights.bin": b"pickled", "README.md": b"# Another model"}
        done = subprocess.run(
            [sys.executable, "-c", DRIVER],
            input=json.dumps(list(cases.values())),
            env=hub.environment(folder / "home", PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    results = dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))
    return hub, folder, results, done.stderr


def test_the_repo_holds_model_processor_code_and_card_and_nothing_else(session):
    hub, folder, results, _ = session
    status, printed, _ = results["first"]
    assert status == 0
    assert "Loaded back from the Hub" in printed
    assert hub.private["me/fresh"]
    files, run = hub.repos["me/fresh"], folder / "run"
    code = {path.name for path in (ROOT / "modeling_ume").glob("*_ume.py")}
    pictures = {f"examples/{i}.png" for i in range(9)}
    others = {".gitattributes", "README.md", "learning_curve.png", "config.json", "model.safetensors"}
    others |= {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert code >= {name for name in files if name.endswith(".py")} >= {"modeling_ume.py", "pipeline_ume.py"}
    assert files.keys() - code == pictures | others
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert files["README.md"] == (run / "README.md").read_bytes()
    assert b'model="me/fresh"' in files["README.md"]


def test_what_is_uploaded_and_what_is_left_out_is_shown_before(session):
    _, _, results, _ = session
    printed = results["first"][1]
    assert printed.index("model.safetensors") < printed.index("Left out:") < printed.index("Uploaded:")
    left_out = next(line for line in printed.splitlines() if line.startswith("Left out:"))
    assert left_out.split(": ")[1].split(", ")[:3] == ["arguments.json", "checkpoint-5/", "image0.png"]
    assert {"notes.txt", "predictions.jsonl", "results.json"} <= set(left_out.split(": ")[1].split(", "))


def test_the_uploaded_config_says_nothing_of_this_machine(session):
    hub, folder, _, _ = session
    assert "/home/someone" in (folder / "run" / "config.json").read_text()
    uploaded = json.loads(hub.repos["me/fresh"]["config.json"])
    local = json.loads((folder / "run" / "config.json").read_text())
    assert local.pop("token")
    local["text_config"]["_name_or_path"] = ""
    assert uploaded == local


def test_the_same_files_may_be_published_again(session):
    assert session[2]["again"][0] == 0


def test_other_content_is_replaced_only_when_asked_for(session):
    hub, _, results, _ = session
    status, _, error = results["taken"]
    assert status == 2
    assert "The repo me/taken exists and holds other content (weights.bin, README.md): choose another name" in error
    assert results["replaced"][0] == 0
    assert hub.repos["me/taken"]["README.md"].startswith(b"---")
    assert hub.repos["me/taken"]["weights.bin"] == b"pickled"


def test_a_copy_that_answers_otherwise_is_an_error(session):
    status, printed, error = session[2]["odd"]
    assert status == 2
    assert "Uploaded: " in printed
    assert "the copy on the Hub answers otherwise" in error


def test_a_dry_run_shows_the_files_and_neither_writes_nor_uploads(session):
    hub, folder, results, _ = session
    status, printed, _ = results["dry"]
    assert status == 0
    assert "README.md" in printed
    assert "(rendered now)" in printed
    assert not (folder / "untouched" / "README.md").exists()
    assert "me/dry" not in hub.repos


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nobody there", "Nobody can be asked here whether to upload: add --yes."),
        ("no card", "has no README.md to publish: name with --about a YAML file"),
        ("not mine", "The token may not write to you/model"),
        ("wrong token", "The Hub does not accept the token"),
        ("no token", "There is no Hub token: run `hf auth login`, or set HF_TOKEN."),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("unreachable", "The Hub at http://127.0.0.1:9 cannot be reached"),
    ],
)
def test_what_keeps_from_uploading_is_one_sentence_and_exit_code_2(session, name, sentence):
    hub, _, results, _ = session
    status, _, error = results[name]
    assert status == 2
    assert error.startswith("error: ")
    assert sentence in error
    assert not hub.repos.keys() & {"me/dry", "me/other", "you/model"}


def test_the_token_is_neither_printed_nor_written(session):
    hub, folder, results, stderr = session
    assert TOKEN not in json.dumps(results) + stderr
    written = [path for path in folder.rglob("*") if path.is_file() and folder / "home" not in path.parents]
    assert not any(TOKEN.encode() in path.read_bytes() for path in written)
    assert not any(TOKEN.encode() in content for files in hub.repos.values() for content in files.values())


@pytest.fixture
def dry_run(tmp_path, monkeypatch, about):
    """(a run's folder, a function that publishes it without uploading)."""
    monkeypatch.setattr(training_ume.hub.publish, "answer_elsewhere", lambda *arguments: {})
    monkeypatch.setattr(
        training_ume.hub.card, "plot_learning_curve", lambda *arguments: arguments[-1].write(b"a curve")
    )
    folder = make_run(tmp_path / "run")

    def call(repo="me/model", **options):
        publish(folder, repo, **{"about": about, **options}, dry_run=True, confirm=lambda question: False)

    return folder, call


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


CARD = "---\nlicense: mit\n---\n# A model"
OLD_CARD = """---
license: mit
model-index:
- name: m
  results:
  - task: {type: visual-question-answering}
    dataset: {name: d, type: d}
    metrics: [{type: exact_match, value: 99.9, name: exact match}]
---
"""


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (write("pytorch_model.bin", "x"), r"pytorch_model\.bin may be pickled"),
        (remove("config.json"), r"is no UME checkpoint \(its config\.json is missing\)"),
        (
            write("config.json", '{"model_type": "bert"}'),
            r"is no UME checkpoint \(its config\.json is of another model",
        ),
        (remove("model.safetensors"), "has no safetensors weights"),
        (remove("pipeline_ume.py"), r"lacks the code that its config\.json names \(pipeline_ume\.py\)"),
        (remove("predictions.jsonl"), r"holds no predictions\.jsonl"),
        (write("README.md", "# A model"), "README.md sets no licence"),
        (write("README.md", "---\nlicense: [\n---\n"), "The metadata of README.md cannot be read"),
        (write("README.md", CARD + " in /home/someone/runs"), "Line 4 of README.md names /home/someone/runs"),
        (write("README.md", f"{CARD}\nhf_{'x' * 34}"), "Line 5 of README.md holds what looks like a Hub token"),
        (write("README.md", OLD_CARD), r"README.md says 99\.9 exact match, results\.json says 83\.33"),
    ],
)
def test_a_folder_that_must_not_be_published_is_refused(dry_run, spoil, sentence):
    folder, call = dry_run
    spoil(folder)
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize(
    ("repo", "sentence"), [("model", "has no owner: write OWNER/model"), ("me/a b", "is no name of a Hub repo")]
)
def test_a_name_that_is_no_repo_is_refused(dry_run, repo, sentence):
    with pytest.raises(ValueError, match=sentence):
        dry_run[1](repo)


def test_a_run_without_lora_has_no_adapter(dry_run):
    with pytest.raises(ValueError, match="The run was not trained with LoRA: leave --adapter out"):
        dry_run[1](adapter=True)


def test_an_edited_card_is_published_as_it_is_unless_a_new_one_is_asked_for(dry_run, capsys):
    folder, call = dry_run
    (folder / "README.md").write_text(CARD)
    call(about=None)
    assert "(rendered now)" not in capsys.readouterr().out
    call(new_card=True)
    assert "README.md" in next(line for line in capsys.readouterr().out.splitlines() if "(rendered now)" in line)
    assert (folder / "README.md").read_text() == CARD


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ('"name": "/home/someone/x"', "/home/someone/x"),
        ("see /tmp/run.", "/tmp/run."),
        (r'"C:\\Users\\someone"', r"C:\\Users\\someone"),
        ("file:///etc/hosts", "file:///etc/hosts"),
        ("(/data/images)", "/data/images"),
        ("https://huggingface.co/docs/hub", None),
        ("yes/no, and/or, 1/2/3", None),
        ("runs/easy_vqa and ./runs/easy_vqa", None),
        ("`examples/0.png` [x](examples/0.png)", None),
        ("a / b / c", None),
    ],
)
def test_only_absolute_paths_are_taken_for_such(line, path):
    found = ABSOLUTE_PATH.search(line)
    assert (found[0] if found else None) == path


def test_words_of_a_vocabulary_may_look_like_paths():
    check_files({"tokenizer.json": b'{"vocab": {"/usr/bin": 1}}'})
    with pytest.raises(ValueError, match=r"Line 1 of config\.json names /usr/bin"):
        check_files({"config.json": b'{"name": "/usr/bin"}'})


# ------------------------------------------------------------------------------------------- with the model itself


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a trained LoRA run, which holds the merged model and the adapter."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("trained")
    files = write_vqa_files(folder / "data")
    recipe = write_tiny_recipe(folder / "easy_vqa.yaml", files, lora_r=2, num_train_epochs=1)
    train_and_evaluate(parse_recipe([str(recipe)]))
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True])
def test_a_trained_model_is_published_and_answers_alike_from_the_hub(trained, tmp_path, about, adapter):
    if adapter and "os.path.exists" not in inspect.getsource(auto_factory):
        pytest.skip("This release of transformers loads no adapters.")
    run = shutil.copytree(trained, tmp_path / "run")
    command = [*UME, "publish", str(run), "me/model", "--about", about, "--yes"]
    with LoopbackHub() as hub:
        done = subprocess.run(
            command + ["--adapter"] * adapter,
            env=hub.environment(tmp_path / "home", PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "Loaded back from the Hub, it answers as before (logits differ by 0.0e+00 at most)." in done.stdout
    files = hub.repos["me/model"]
    assert ("adapter_model.safetensors" in files) == adapter
    if adapter:
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/model"
        assert b"LoRA adapter (rank 2)" in files["README.md"]


@pytest.mark.slow
def test_a_model_that_does_not_load_elsewhere_is_refused(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    code = (folder / "fusion_ume.py").read_text()
    (folder / "fusion_ume.py").write_text(f"import training_ume.records.files\n{code}")
    with pytest.raises(ValueError, match=r"does not load where only torch, .* are installed \(.*training_ume"):
        answer_elsewhere(str(folder), adapter=False)
