"""The house: which floor imports which, how long a file may be, where older import paths lead, what each module says.

Read from the files with `ast`, imports inside functions like those at the top.
"""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from training_ume import moved
from training_ume.moved import MOVED, new_homes

ROOT = Path(__file__).resolve().parent.parent
# From the ground up. A floor may import itself and those below it; rooms of one floor do not import each other.
FLOORS = (
    ("metrics",),
    ("modeling_ume",),
    ("configuration_ume",),
    ("training_ume.moved",),
    ("training_ume.records",),
    ("training_ume.data",),
    ("training_ume.build",),
    ("training_ume.evaluation", "training_ume.explain", "training_ume.features"),
    ("training_ume.training",),
    ("training_ume.evidence", "training_ume.hub", "training_ume.serve"),
    ("training_ume.report",),
    ("training_ume.commands",),
    ("ume",),
    ("scripts",),
)
LEVEL = {room: level for level, floor in enumerate(FLOORS) for room in floor}
# Plain tables and words at a terminal: they import nothing of ours, and anybody may print one.
TABLES = {"training_ume.report.markdown", "training_ume.report.console"}
# What reports are made of. They import nothing that computes a result.
REPORTED = {"metrics", "modeling_ume", "configuration_ume", "training_ume.records", "training_ume.report"}
MOST_LINES = 500
# The pair sums and their kernels are one argument each: what belongs together is read together.
LONGER = {"modeling_ume/pairs_ume.py", "modeling_ume/pairs_triton_ume.py"}


class Arrow(NamedTuple):
    """An import: who, in which line, of whom."""

    module: str
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{self.module} (line {self.line}) → {self.imported}"


@cache
def modules() -> dict[str, Path]:
    """Our modules by name; a package is its __init__."""
    found = {}
    for top in ("metrics", "modeling_ume", "configuration_ume", "training_ume", "ume", "scripts"):
        for path in sorted((ROOT / top).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def arrows_of(name: str, source: str, package: bool = False) -> list[Arrow]:
    """What a module imports of ours, wherever in it that stands."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Arrow(name, node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")[: len(name.split(".")) - node.level + package] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append(Arrow(name, node.lineno, inner if inner in modules() else base))
    return [arrow for arrow in dict.fromkeys(found) if arrow.imported.split(".")[0] in OURS]


OURS = {room.split(".")[0] for room in LEVEL}


@cache
def arrows() -> list[Arrow]:
    return [
        arrow
        for name, path in modules().items()
        for arrow in arrows_of(name, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    ]


def room(module: str) -> str | None:
    """The package that a module is in; None for `training_ume` itself, which only knows where its modules moved."""
    parts = module.split(".")
    name = ".".join(parts[: 2 if parts[0] == "training_ume" else 1])
    return name if name in LEVEL else None


def fault(arrow: Arrow) -> str | None:
    """What is wrong with an import, in words."""
    of, to = room(arrow.module), room(arrow.imported)
    if arrow.imported == "training_ume" or to is None:
        return f"{arrow}: nothing is kept in the package itself, name the module."
    if arrow.imported in TABLES or of in (None, to):
        return None
    if arrow.module in TABLES:
        return f"{arrow}: what anybody may import imports nothing of ours."
    if of == "training_ume.report" and to not in REPORTED:
        return f"{arrow}: reports are made from files and import nothing that computes."
    if LEVEL[to] > LEVEL[of]:
        return f"{arrow}: an arrow back up, from {of} to {to}."
    if LEVEL[to] == LEVEL[of]:
        return f"{arrow}: {of} and {to} are rooms of one floor: what both need belongs below."
    return None


def test_every_module_is_in_a_room_of_the_plan():
    lost = [name for name in modules() if room(name) is None and name != "training_ume"]
    assert not lost, f"{lost}: give them a place in FLOORS."
    assert len(modules()) > 100, "the files are not found"


def test_imports_run_one_way():
    faults = [said for arrow in arrows() if (said := fault(arrow))]
    assert not faults, "\n".join(["", *faults])
    assert len(arrows()) > 300, "the imports are not found"


@pytest.mark.parametrize(
    ("module", "line", "said"),
    [
        ("configuration_ume.parsing", "from training_ume.evaluation.scores import score", "an arrow back up"),
        ("modeling_ume.base_ume", "def f():\n    import configuration_ume", "an arrow back up"),
        ("training_ume.data.load", "def f():\n    from ..training.run import Run", "an arrow back up"),
        ("training_ume.records.files", "from training_ume import data", "an arrow back up"),
        ("training_ume.explain.words", "from training_ume.features import store", "rooms of one floor"),
        ("training_ume.hub.card", "from training_ume.report.curves import plot_robustness", "an arrow back up"),
        ("training_ume.report.arena", "from training_ume.evidence.arena import tournament", "nothing that computes"),
        ("training_ume.report.markdown", "from training_ume.records.files import read_json", "nothing of ours"),
        ("training_ume.commands.ask", "from training_ume import run", "name the module"),
    ],
)
def test_an_arrow_that_is_turned_is_named(module, line, said):
    (arrow,) = arrows_of(module, line)
    assert said in fault(arrow)
    assert module in fault(arrow)


def bound(tree: ast.AST) -> set[str]:
    """The names that a module has: what it defines, assigns and imports, wherever in it."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    imports = (node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)))
    return names | {alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names}


def test_every_name_that_is_imported_is_there():
    """Also where an import waits inside a function, and in what tests, benchmarks and examples import of ours."""
    there = {name: bound(ast.parse(path.read_text(encoding="utf-8"))) for name, path in modules().items()}
    others = [path for top in ("tests", "benchmarks", "examples") for path in (ROOT / top).glob("*.py")]
    lacking = []
    for path in (*modules().values(), *others):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in OURS:
                module, names = node.module, {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 1:
                module = ".".join([*path.relative_to(ROOT).parent.parts, *([node.module] if node.module else [])])
                names = {alias.name for alias in node.names}
            else:
                continue
            lost = {name for name in names if f"{module}.{name}" not in there} - there.get(module, set())
            lacking += [f"{path.relative_to(ROOT)} (line {node.lineno}): {module} has no {name}" for name in lost]
    assert not lacking, "\n".join(["", *lacking])


def test_no_import_leads_back_to_where_it_began():
    """Not even one inside a function: such a circle says that two modules are one, or that a third is missing."""
    graph = {name: [] for name in modules()}
    for arrow in arrows():
        if arrow.imported in graph and arrow.imported != arrow.module:
            graph[arrow.module].append(arrow.imported)
    done, path = set(), []

    def visit(name):
        if name in path:
            pytest.fail(" → ".join([*path[path.index(name) :], name]))
        if name not in done:
            path.append(name)
            for other in graph[name]:
                visit(other)
            done.add(path.pop())

    for name in graph:
        visit(name)


def test_no_file_is_so_long_that_nobody_reads_it():
    places = [path for path in modules().values() if path.relative_to(ROOT).parts[0] != "scripts"]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in places}
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES and name not in LONGER}
    assert all(lengths[name] > MOST_LINES for name in LONGER), "one of LONGER is short enough now: take it out."


def test_every_module_says_what_it_is_for():
    said = {name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for name, path in modules().items()}
    assert not [name for name, doc in said.items() if not doc]
    first = {name: doc.split("\n\n")[0].strip() for name, doc in said.items()}
    assert not {name: line for name, line in first.items() if len(line) < 20 or line[-1] not in ".:;?"}
    metrics_and_scripts = ("metrics", "scripts")  # a metric's docstring is what `evaluate` shows
    repeated = [
        name
        for name, line in first.items()
        if list(first.values()).count(line) > 1 and name.split(".")[0] not in metrics_and_scripts
    ]
    assert not repeated, f"{repeated} say the same of themselves."


# What documentation, notebooks and model cards of earlier releases import, and where it is.
DOCUMENTED = {
    "answers": {"AnswerVocabulary": "training_ume.data.answers", "Coverage": "training_ume.data.answers"},
    "collator": {"VQACollator": "training_ume.data.collator"},
    "data": {"load_vqa": "training_ume.data.load", "split_by_image": "training_ume.data.splits"},
    "demo": {
        "build_demo": "training_ume.serve.page",
        "launch": "training_ume.serve.page",
        "load_judges": "training_ume.serve.judges",
    },
    "evaluation": {
        "ask": "training_ume.evaluation.asking",
        "evaluate_checkpoint": "training_ume.evaluation.evaluate",
        "load_checkpoint": "training_ume.evaluation.load",
    },
    "explain": {"explain": "training_ume.explain.explanation"},
    "explain_plots": {"plot_explanation": "training_ume.report.explanation"},
    "export": {"OnnxVQA": "training_ume.serve.onnx_answers", "trace": "training_ume.serve.onnx_graphs"},
    "feature_export": {"fetch_features": "training_ume.features.publish"},
    "feature_sets": {"cache_recipe": "training_ume.training.feature_sets"},
    "publish": {"publish": "training_ume.hub.publish"},
    "recipes": {"parse_recipe": "configuration_ume.parsing"},
    "retrieval": {"evaluate_retrieval": "training_ume.evaluation.retrieval"},
    "run": {
        "describe_data": "training_ume.training.prepare",
        "load_data": "training_ume.training.prepare",
        "train_and_evaluate": "training_ume.training.run",
    },
    "trainer": {"UMETrainer": "training_ume.training.trainer", "predict": "training_ume.evaluation.answering"},
}


@pytest.mark.parametrize("old", DOCUMENTED)
def test_older_documented_imports_lead_to_the_same_objects_and_say_where_these_are(old):
    for name, home in DOCUMENTED[old].items():
        with pytest.warns(DeprecationWarning, match=f"training_ume.{old}.{name} is now in {home}"):
            found = getattr(importlib.import_module(f"training_ume.{old}"), name)
        assert found is getattr(importlib.import_module(home), name)


def test_what_heads_of_users_import_is_where_it_was():
    fusion, streams = (importlib.import_module(f"modeling_ume.{name}") for name in ("fusion_ume", "streams_ume"))
    assert (fusion.Stream, fusion.FusionOutput) == (streams.Stream, streams.FusionOutput)
    assert fusion.FusionHead is importlib.import_module("modeling_ume.fusion_base_ume").FusionHead


@pytest.mark.parametrize("old", MOVED)
def test_the_table_of_older_modules_names_modules_that_are_there(old):
    assert set(new_homes(old)) <= modules().keys()
    assert f"training_ume.{old}" not in modules() or old in ("data", "evaluation", "explain", "features")
    with pytest.raises(AttributeError, match=f"module 'training_ume.{old}' has no attribute 'nothing_of_that_name'"):
        importlib.import_module(f"training_ume.{old}").nothing_of_that_name  # noqa: B018


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("training_ume.nothing_of_that_name")


IMPORTED = re.compile(r"(?:from|import|:::) (training_ume(?:\.\w+)+)(?: import (\w+))?")


def test_our_own_code_and_texts_use_no_older_path():
    """Also in what tests run as text, in the notebook and in documentation."""
    older = {f"training_ume.{name}" for name in MOVED}
    tops = ("scripts", "tests", "benchmarks", "notebooks", "docs", "examples", "model_cards", "training_ume")
    files = [
        path for top in tops for suffix in ("py", "md", "ipynb", "sh") for path in (ROOT / top).rglob(f"*.{suffix}")
    ]
    spared = {Path(__file__).resolve(), Path(moved.__file__).resolve()}
    found, seen = [], 0
    for path in (*files, *ROOT.glob("*.md")):
        if path.resolve() in spared:
            continue
        for match in IMPORTED.finditer(path.read_text(encoding="utf-8")):
            seen += 1
            module, name = match.groups()
            module = ".".join(module.split(".")[:2])
            whole = match[1] if name is None else f"{match[1]}.{name}"
            here = any(known == whole or whole.startswith(f"{known}.") for known in modules() if known.count(".") > 1)
            if module in older and not here:
                found.append(f"{path.relative_to(ROOT)}: {match[0]}")
    assert not found
    assert seen > 300, "the imports are not found"
