"""The trial by changed lines: what it draws, and that its reasons are still about lines that are there."""

import ast
import textwrap
from pathlib import Path

import pytest
from mutant_runs import OURS, explanations

ROOT = Path(__file__).resolve().parent.parent


def definitions() -> dict[str, str]:
    """Every class and function of the project → its lines, or those of all that have its name; "": all there is."""
    found = {"": ""}

    def walk(node, lines, name):
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{name}.{child.name}".strip(".")
                found[inner] = "\n".join([found.get(inner, ""), *lines[child.lineno - 1 : child.end_lineno]])
            walk(child, lines, inner)

    for path in sorted([*(ROOT / "modeling_ume").glob("*.py"), *(ROOT / "training_ume").rglob("*.py")]):
        source = path.read_text(encoding="utf-8")
        lines = [line.strip() for line in source.splitlines()]
        found[""] = "\n".join([found[""], *lines])
        walk(ast.parse(source), lines, "")
    return found


def test_every_reason_is_about_a_line_that_is_there():
    """A line that was changed or has moved to another definition may be noticed now: try it and mend the entry."""
    there = definitions()
    gone = [key for key in explanations() if key[1] not in there.get(key[0], "")]
    assert not gone


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- mutants: [{in: f, before: a, after: b}]", r"gives no reason for \('f', 'a', 'b'\)"),
        ("- reason: so\n  mutants: [{in: f, before: a, after: b}, {in: f, before: a, after: b}]", "twice"),
    ],
)
def test_a_mutant_without_a_reason_and_one_that_is_there_twice_are_refused(content, message, tmp_path):
    (tmp_path / "reasons.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        explanations(tmp_path / "reasons.yaml")


def test_every_package_of_the_project_is_imported_anew_for_a_changed_line():
    assert {file.parent.name for file in ROOT.glob("*/__init__.py")} <= set(OURS)


SOURCE = '''
"""A docstring."""
from torch import Tensor


class Head:
    """Another."""

    cost = "O(1)"
    rank = 3

    def forward(self, x: Tensor, side: "str" = "left") -> Tensor:
        """And one more."""
        if side != "left":
            raise ValueError("Only left is known.")
        x[0] += 1
        return x.clamp(min=len(x))
'''


@pytest.fixture
def found(tmp_path):
    mutants = pytest.importorskip("mutants", reason="the extra `mutation` is not installed", exc_type=ImportError)
    (tmp_path / "head.py").write_text(textwrap.dedent(SOURCE))
    return lambda number=1000, seed=0: mutants.draw_mutants(mutants.find_mutants("head.py", tmp_path), number, seed)


def test_lines_are_changed_but_no_types_words_for_people_or_the_like(found):
    changes = {(m.definition, m.before, m.after) for m in found()}
    assert ("Head", "rank = 3", "rank = 4") in changes
    assert ("Head.forward", "x[0] += 1", "pass") in changes
    assert ("Head.forward", "x[0] += 1", "x[0] -= 1") in changes
    assert ("Head.forward", "return x.clamp(min=len(x))", "return x") in changes
    assert ("Head.forward", 'if side != "left":', 'if side == "left":') in changes
    assert not [change for change in changes if "docstring" in change[1] or "cost" in change[1]]
    assert not [change for change in changes if "raise" in change[1] and "XX" in change[2]]
    assert all(": Tensor," in change[2] and ") -> Tensor:" in change[2] for change in changes if "def" in change[1])
    for mutant in found():
        compile(mutant.code, "head.py", "exec")
        assert mutant.code != SOURCE


def test_a_draw_is_the_same_when_another_line_of_the_file_is_not(found, tmp_path):
    few = [m.key for m in found(8)]
    assert few == [m.key for m in found(8)]
    kinds = {m.kind for m in found()}
    assert {m.kind for m in found(len(kinds))} == kinds  # one of each before a second of any
    assert few != [m.key for m in found(8, seed=1)]
