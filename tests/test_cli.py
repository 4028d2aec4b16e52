"""The `ume` command: what it lists, what it loads and when, and JSON that a program can read."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from test_compare import write_run
from vqa_files import UME, write_tiny_recipe, write_vqa_files

from training_ume import commands
from training_ume.commands import COMMANDS, main
from training_ume.report import console

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model that `ume train` trained, and the options that name its data: (the model's folder, options)."""
    folder = tmp_path_factory.mktemp("trained")
    files = write_vqa_files(folder / "data")
    assert main(["train", str(write_tiny_recipe(folder / "tiny.yaml", files, num_train_epochs=1))]) == 0
    data = ["--questions", files["train_questions"], "--images", files["train_images"]]
    return str(folder / "run"), [*data, "--annotations", files["train_annotations"]]


def test_help_lists_every_command_without_loading_torch():
    program = (
        "import sys\nfrom training_ume.commands import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print(sorted({'torch', 'transformers', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == "[]\n"
    assert re.findall(r"^  (\w+)  +\w", done.stdout, re.MULTILINE) == list(COMMANDS)
    assert "ume ask runs/easy_vqa" in done.stdout


def test_without_a_command_the_help_goes_to_stderr_and_the_code_is_2(capsys):
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: ume COMMAND")


@pytest.mark.parametrize(("name", "advice"), [("trian", "did you mean train?"), ("xyz", "choose one of train, ")])
def test_an_unknown_command_is_one_sentence(capsys, name, advice):
    assert main([name, "--help"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: There is no command '{name}': {advice}")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_shows_examples_that_call_it(capsys, name):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: ume {name} ")
    assert len(re.findall(rf"^ume {name} \S", printed, re.MULTILINE)) >= 2


def documented() -> dict[str, set[str]]:
    """The `ume` commands in the code blocks of README.md and docs/, by name, with the options that they use."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found: dict[str, set[str]] = {}
    for page in pages:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if called := re.match(r"ume (\S+)(.*)", line.split(" #")[0]):
                    found.setdefault(called[1], set()).update(re.findall(r" --(\w+)", called[2]))
    return found


def test_the_documentation_calls_commands_and_options_that_exist(capsys):
    calls = documented()
    assert {"train", "ask", "evaluate", "publish"} <= calls.keys() <= COMMANDS.keys()
    options = {}
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        options[name] = {"help", *re.findall(r"--(\w+)", capsys.readouterr().out)}
    for name in calls.keys() & options.keys():
        takes_fields = name in ("cache", "arena", "shard", "thesis")  # those of a recipe
        fields = options["train"] if takes_fields else set()
        assert calls[name] <= options[name] | fields, name


def test_launchers_that_start_modules_have_the_same_command(tmp_path):
    (tmp_path / "evaluate.py").write_text("raise SystemExit('a file of the user hides the package of that name')")
    command = [*UME, "compare", "nowhere", "--out", "all.json"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere holds no results.json of a finished run")


def test_every_script_that_a_text_names_is_there():
    """Users have `ume`; what was a script once and is a command now is called by that name alone."""
    rooms = ["ume", "modeling_ume", "configuration_ume", "training_ume", "metrics", "scripts", "model_cards", "docs"]
    named = {
        (script, path.relative_to(ROOT))
        for folder in [*rooms, "examples", ".github"]
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".yaml", ".md", ".sh")
        for script in re.findall(r"scripts/(\w+\.(?:py|sh))", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 5
    assert [(script, path) for script, path in named if not (ROOT / "scripts" / script).is_file()] == []


def test_a_command_whose_extra_is_missing_says_how_to_install_it(monkeypatch, capsys):
    def needs_gradio(argv):
        raise ModuleNotFoundError("No module named 'gradio'", name="gradio")

    module = ModuleType("training_ume.commands.demo")
    module.main = needs_gradio
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert main(["demo", "runs/easy_vqa"]) == 2
    expected = 'error: `ume demo` needs gradio, which is not installed: `pip install "ume[demo]"` brings it.\n'
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_the_extra_that_a_command_names_exists(name):
    extra = COMMANDS[name].extra
    assert extra is None or re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_a_module_missing_from_a_command_without_an_extra_is_not_hidden(monkeypatch):
    def broken(argv):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    module = ModuleType("training_ume.commands.ask")
    module.main = broken
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(ModuleNotFoundError):
        main(["ask", "runs/easy_vqa", "image.png", "why?"])


def test_ctrl_c_while_a_command_loads_ends_with_a_word(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.importlib, "import_module", interrupted)
    assert main(["train", "easy_vqa"]) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


def test_ask_json_is_the_answers_and_nothing_else(trained, capsys):
    model, data = trained
    image = str(Path(data[3]) / "image0.png")
    assert main(["ask", model, image, "what color is it?", "is it red?", "--top_k", "2", "--json"]) == 0
    answered = json.loads(capsys.readouterr().out)
    assert [entry["question"] for entry in answered] == ["what color is it?", "is it red?"]
    for entry in answered:
        best, second = entry["answers"]
        assert best["score"] >= second["score"] > 0
        assert isinstance(best["answer"], str)


def test_ask_json_without_a_question_is_refused(trained, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with pytest.raises(SystemExit) as left:
        main(["ask", trained[0], "picture.png", "--json"])
    assert left.value.code == 2
    assert "--json needs the questions" in capsys.readouterr().err


def test_evaluate_json_is_what_the_file_holds(trained, capsys, tmp_path):
    model, data = trained
    out = tmp_path / "results.json"
    assert main(["evaluate", model, *data, "--json", "--out", str(out)]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads(out.read_text())
    assert results["questions"] == 24
    assert "json" not in results["data"]


def test_an_error_leaves_stdout_empty_with_json(trained, capsys):
    assert main(["evaluate", trained[0], "--questions", "absent.json", "--images", ".", "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: The questions file absent.json does not exist" in printed.err


def test_explain_json_is_what_the_file_holds(trained, capsys, tmp_path):
    pytest.importorskip("captum")
    pytest.importorskip("matplotlib")
    model, data = trained
    image, out = str(Path(data[3]) / "image0.png"), tmp_path / "why"
    assert main(["explain", model, image, "is it red?", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.with_suffix(".json").read_text())


def test_compare_json_is_what_the_file_holds(tmp_path, capsys):
    write_run(tmp_path / "a", "ume")
    out = tmp_path / "all.json"
    assert main(["compare", str(tmp_path / "a"), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())


def test_a_table_is_drawn_at_a_terminal_and_plain_elsewhere(capsys, monkeypatch):
    lines = [("", "score"), ("[red]", "12.50"), (":smile:", "7.00")]
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.print_table(lines)
    drawn = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert "─" in drawn
    assert re.search(r"^ *\[red\] +12\.50 *$", drawn, re.MULTILINE)
    assert ":smile:" in drawn
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    console.print_table(lines)
    assert capsys.readouterr().out == "         score\n[red]    12.50\n:smile:   7.00\n"


def test_markdown_is_drawn_at_a_terminal_and_kept_elsewhere(capsys, monkeypatch):
    text = "| head | score |\n| --- | ---: |\n| ume | 12.50 |\n\nFour words, `one` command."
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.print_markdown(text)
    drawn = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert "| ---" not in drawn
    assert re.search(r"ume +12\.50", drawn)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    console.print_markdown(text)
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.parametrize(("given", "then"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_commands_wait_passively_for_threads_unless_told_otherwise(given, then, monkeypatch, capsys):
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")  # so that it is put back as it was
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["compare", "nowhere"]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == then
