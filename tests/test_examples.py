"""The examples as a user runs them, one after the other in one folder; the encoders that they name are tiny ones."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from test_notebook import write_encoders

from modeling_ume import FUSIONS
from modeling_ume.own_heads_ume import OWN

EXAMPLES = Path(__file__).parent.parent / "examples"
# What each is called with, and what it prints. Each may read what the first one left.
CALLS = {
    "own_table": ([], r"(?m)^ume +\d+\.\d\d"),
    "own_head": ([], r"(?m)^own_head\.py:Spread +\d+\.\d\d"),
    "frozen_features": (["TEXT", "IMAGE"], r"(?m)^concat +\d+\.\d\d"),
    "with_lora": (["TEXT", "IMAGE"], r"(?m)^ume +\d+\.\d\d"),
    "ask_from_python": (
        ["runs/own_table/model", "runs/own_table/images/0.png", "what color is it?"],
        r"\(\d+%\), or ",
    ),
    "publish_dry_run": ([], "model.safetensors"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two encoders, where own_table.py has run: what the other examples begin with."""
    folder = tmp_path_factory.mktemp("examples")
    write_encoders(folder)
    return folder


def run(name: str, folder: Path, monkeypatch) -> None:
    arguments = [str(folder / word.lower()) if word.isupper() else word for word in CALLS[name][0]]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        OWN.pop("own_head.py:Spread", None)
        FUSIONS.pop("own_head.py:Spread", None)


def test_every_example_is_run_and_says_how():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == CALLS.keys()
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert f"python examples/{path.name}" in text
        assert len(text.splitlines()) <= 50


SLOW = ("frozen_features", "with_lora", "publish_dry_run")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CALLS])
def test_an_example_runs(name, folder, monkeypatch, capsys):
    if name == "with_lora":
        pytest.importorskip("peft")
    if not (folder / "runs/own_table/model").exists() and name != "own_table":
        run("own_table", folder, monkeypatch)
        capsys.readouterr()
    run(name, folder, monkeypatch)
    printed = capsys.readouterr().out
    assert re.search(CALLS[name][1], printed)
