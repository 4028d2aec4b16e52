"""The file of a fusion head from outside, as it travels with a checkpoint: beside the files of this package.

There, `from ume import FusionHead` and `from modeling_ume.streams_ume import Stream` are `from .streams_ume import …`.
What a file imports besides must be an installed package; of anything else it says why the file cannot travel.
"""

import ast
import importlib
import re
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("ume", "modeling_ume")  # whose names travel
STAYING = ("configuration_ume", "training_ume", "metrics")
# What a head needs of this package, each from the file that it is defined in.
HOMES = {
    "FUSIONS": "fusion_ume",
    "FusionHead": "fusion_base_ume",
    "FusionOutput": "streams_ume",
    "Stream": "streams_ume",
    "UMEConfig": "configuration_ume",
    "register_fusion": "own_heads_ume",
}
# They import heads, not the other way round.
ABOVE_HEADS = ("base_ume", "contrast_ume", "loading_ume", "modeling_ume", "retrieval_ume")
# As transformers looks for files to copy, in docstrings too.
RELATIVE = re.compile(r"^\s*(?:from\s+\.(\S+)\s+import|import\s+\.(\S+)\s*$)", re.MULTILINE)


class Travelling(NamedTuple):
    """What the copy of a file holds, why it would not work elsewhere (sentences), and the file to be run here."""

    text: str
    problems: list[str]
    tree: ast.Module


def travelling(text: str, file: Path) -> Travelling:
    """
    Makes a head's file ready to lie beside the files of this package.

    Args:
        text: what it holds.
        file: where it lies, for the modules beside it and for messages.

    Raises:
        SyntaxError: for a file that is no Python.
    """
    tree = ast.parse(text, filename=str(file))
    lines, problems = text.splitlines(keepends=True), []
    edits = []  # (first line, last line, what stands there instead)
    guarded = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    scripts = [node for node in tree.body if _is_script(node)]
    for node in scripts:
        edits.append((node.lineno, node.end_lineno, ""))
        guarded |= {id(inner) for inner in ast.walk(node)}
        tree.body.remove(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names):
                problems += _of_module(name, file, id(node) in guarded, f"import {name}")
        elif isinstance(node, ast.ImportFrom) and node.level:
            problems += _of_relative(node)
        elif isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in PACKAGES:
            homes, wrong = _homes(node)
            problems += wrong
            line, end = lines[node.lineno - 1], lines[node.end_lineno - 1]
            before, after = line.encode()[: node.col_offset].decode(), end.encode()[node.end_col_offset :].decode()
            if before.strip() or (after.strip() and not after.strip().startswith("#")):
                problems.append(f"line {node.lineno} holds more than the import: give it a line of its own")
            elif not wrong:
                new = "\n".join(f"{before}from .{home} import {', '.join(names)}" for home, names in homes.items())
                edits.append((node.lineno, node.end_lineno, new + after))
        elif isinstance(node, ast.ImportFrom):
            what = f"from {node.module} import {node.names[0].name}"
            problems += _of_module(node.module, file, id(node) in guarded, what)
    for first, last, new in sorted(edits, reverse=True):
        lines[first - 1 : last] = [new] if new else []
    copy = "".join(lines)
    for names in RELATIVE.findall(copy):
        name = "".join(names)
        if not _travels(name) and not any(f".{name}" in problem for problem in problems):
            problems.append(f"a line of it reads like an import of .{name}, which is no file of this package")
    return Travelling(copy, problems, ast.fix_missing_locations(_Relative().visit(tree)))


class _Relative(ast.NodeTransformer):
    """The same change in what is run here, where every line keeps its number."""

    def visit_ImportFrom(self, node):
        if node.level or node.module.partition(".")[0] not in PACKAGES:
            return node
        homes, wrong = _homes(node)
        if wrong:
            return node
        aliases = {alias.name: alias for alias in node.names}
        return [
            ast.copy_location(ast.ImportFrom(home, [aliases[name.split(" as ")[0]] for name in names], 1), node)
            for home, names in homes.items()
        ]


def _is_script(node: ast.stmt) -> bool:
    """`if __name__ == "__main__":`, which is not run where the file is imported."""
    return isinstance(node, ast.If) and ast.unparse(node.test).replace('"', "'") == "__name__ == '__main__'"


def _travels(name: str) -> bool:
    """Whether a checkpoint has such a file of this package, and a head may import it."""
    known = name.isidentifier() and name not in ABOVE_HEADS and name.endswith("_ume")
    return known and Path(__file__).with_name(f"{name}.py").is_file()


def _homes(node: ast.ImportFrom) -> tuple[dict[str, list[str]], list[str]]:
    """What is imported from this package, by the file that it comes from, and what cannot be."""
    homes, wrong = {}, []
    _, _, inner = node.module.partition(".")
    for alias in node.names:
        home = inner or HOMES.get(alias.name, "")
        if alias.name == "*" or not _travels(home):
            advice = f"import its names from modeling_ume.{alias.name}" if _travels(alias.name) else _allowed()
            wrong.append(f"it imports {alias.name} from {node.module}, which a head cannot: {advice}")
            continue
        homes.setdefault(home, []).append(f"{alias.name} as {alias.asname}" if alias.asname else alias.name)
    return homes, wrong


def _allowed() -> str:
    return f"of this package it may have {', '.join(HOMES)}, and what lies in modeling_ume's files of parts for heads"


def _of_relative(node: ast.ImportFrom) -> list[str]:
    if node.level == 1 and node.module and _travels(node.module):
        return []
    what = f"{'.' * node.level}{node.module or ''}"
    return [f"it imports from {what}, which does not travel with it: {_remedy()}"]


def _of_module(name: str, file: Path, guarded: bool, what: str) -> list[str]:
    """Why a module that a file imports would not be found where the file is loaded; nothing for one that would."""
    root = name.partition(".")[0]
    if root in PACKAGES:
        return [f"`{what}` needs this package to be installed: write `from {root} import …` with the names"]
    if root in STAYING:
        return [f"`{what}` needs this package to be installed, and {root} does not travel: {_remedy()}"]
    beside = [file.with_name(f"{root}.py"), file.with_name(root) / "__init__.py"]
    if any(path.is_file() for path in beside):
        return [f"it imports {root}, which lies beside it and does not travel with it: {_remedy()}"]
    if guarded or root in sys.stdlib_module_names:
        return []
    spec = PathFinder.find_spec(root)
    if spec is None:
        return [f"it imports {root}, which is not installed here"] if root not in sys.modules else []
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    if any(part in ("site-packages", "dist-packages") for place in places for part in Path(place).parts):
        return []
    if root in metadata.packages_distributions():  # installed from a folder of its own
        return []
    return [f"it imports {root} ({places[0] or places[-1]}), which is no installed package: {_remedy()}"]


def _remedy() -> str:
    return "put what it needs of that into the one file"


def own_name(file: Path) -> str | None:
    """What is wrong with the name of a head's file; None: nothing."""
    if file.suffix != ".py" or not file.stem.isidentifier():
        return "a module's name has letters, digits and _ only, and ends in .py"
    if file.stem.endswith("_ume") or file.stem in ("__init__", "__main__", *sys.stdlib_module_names):
        return "a file of this package or of Python is called so"
    return None


def run(tree: ast.Module, file: Path, module) -> None:
    """Runs a file as that module; what lies beside it is found, as in a script."""
    sys.path.insert(0, str(file.parent))
    importlib.invalidate_caches()
    try:
        exec(compile(tree, str(file), "exec"), vars(module))  # noqa: S102 (it was asked for)
    finally:
        sys.path.remove(str(file.parent))
