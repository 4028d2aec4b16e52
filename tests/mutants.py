"""Changed lines that a test should notice: which changes there are, which of them are drawn.

The changes are those of mutmut's operators and two of our own. A mutant is known by the definition that it is in and
by its line before and after, wherever in the project that line stands.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).resolve().parent.parent
# The kernels need a GPU: their tests run where there is one, and no mutant of theirs can be noticed elsewhere.
LEFT_OUT = {"modeling_ume/pairs_triton_ume.py", "modeling_ume/__init__.py"}
# From the files to the batch, and the store of features.
DATA_PATH = (
    "data/answers", "data/collator", "data/images", "data/json_entries", "data/load", "data/rows", "data/sampler",
    "data/sources/easy_vqa", "data/sources/hub", "data/sources/official", "data/splits", "evaluation/rows",
    "features/build", "features/identity", "features/keys", "features/store",
)  # fmt: skip


def mutated_files(root: Path = ROOT) -> list[str]:
    """The files whose lines are changed, relative to the root."""
    model = (f"modeling_ume/{path.name}" for path in (root / "modeling_ume").glob("*.py"))
    return sorted({*model, *(f"training_ume/{name}.py" for name in DATA_PATH)} - LEFT_OUT)


# ------------------------------------------------------------------------------------------------------------ changes

# What stands before the dot of a function, not of a value.
MODULES = {
    "F", "Path", "copy", "hashlib", "importlib", "init", "inspect", "itertools", "json", "logging", "math", "nn", "np",
    "os", "re", "self", "super", "tempfile", "torch", "transformers", "warnings",
}  # fmt: skip


def _call_left_out(node: cst.Call) -> Iterator[cst.CSTNode]:
    """x.clamp(min=1) → x"""
    if not isinstance(node.func, cst.Attribute):
        return
    first = node.func.value
    while isinstance(first, (cst.Attribute, cst.Call, cst.Subscript)):
        first = first.func if isinstance(first, cst.Call) else first.value
        if isinstance(first, cst.Name) and first.value == "super":
            return
    receiver = node.func.value
    if isinstance(receiver, cst.Name) and receiver.value in MODULES:
        return
    if isinstance(receiver, cst.Attribute) and isinstance(first, cst.Name) and first.value in MODULES - {"self"}:
        return
    yield receiver


def _statement_left_out(node: cst.SimpleStatementLine) -> Iterator[cst.CSTNode]:
    """x += 1, x[i] = y and f(x) → pass"""
    if len(node.body) != 1:
        return
    (statement,) = node.body
    call = isinstance(statement, cst.Expr) and isinstance(statement.value, cst.Call)
    part = isinstance(statement, cst.Assign) and isinstance(statement.targets[0].target, cst.Subscript)
    if call or part or isinstance(statement, cst.AugAssign):
        yield node.with_changes(body=[cst.Pass()])


OPERATORS = [*mutation_operators, (cst.Call, _call_left_out), (cst.SimpleStatementLine, _statement_left_out)]
KINDS = {
    "operator_number": "a number plus one",
    "operator_string": "another string",
    "operator_name": "True for False, copy for deepcopy",
    "operator_assignment": "None assigned",
    "operator_augmented_assignment": "= for += and its like",
    "operator_remove_unary_ops": "not or ~ left out",
    "operator_dict_arguments": "another key",
    "operator_arg_removal": "an argument None or left out",
    "operator_symmetric_string_methods_swap": "the opposite method of a string",
    "operator_unsymmetrical_string_methods_swap": "the opposite method of a string",
    "operator_lambda": "None from a lambda",
    "operator_keywords": "is, in, break or continue turned",
    "operator_swap_op": "another operator",
    "operator_match": "a case left out",
    "operator_if_exp": "a condition forced",
    "_call_left_out": "a method's call left out",
    "_statement_left_out": "a statement left out",
}


@dataclass
class Mutant:
    """One change.

    Attributes:
        file: relative to the root.
        definition: `Class.method` or the like; empty for a line of the module itself.
        kind: what was done, in words.
        lines: the first and last line of what was changed.
        scope: those of the definition.
    """

    file: str
    definition: str
    kind: str
    lines: tuple[int, int]
    scope: tuple[int, int]
    _module: cst.Module = field(repr=False)
    _statement: int = field(repr=False)
    _node: cst.CSTNode = field(repr=False)
    _new: cst.CSTNode = field(repr=False)

    @cached_property
    def code(self) -> str:
        """The whole file with the change."""
        body = list(self._module.body)
        statement = body[self._statement]
        body[self._statement] = self._new if statement is self._node else statement.deep_replace(self._node, self._new)
        return self._module.with_changes(body=body).code

    @cached_property
    def _change(self) -> tuple[str, str]:
        before, after = self._module.code.splitlines(), self.code.splitlines()
        while before and after and before[-1] == after[-1]:
            before.pop(), after.pop()
        while before and after and before[0] == after[0]:
            del before[0], after[0]
        return tuple("\n".join(line.strip() for line in lines) for lines in (before, after))

    @property
    def before(self) -> str:
        return self._change[0]

    @property
    def after(self) -> str:
        return self._change[1]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.definition, self.before, self.after

    @cached_property
    def draw(self) -> str:
        """What it is drawn by: the same however the rest of the file changes."""
        nodes = (self._module.code_for_node(node) for node in (self._node, self._new))
        words = self.definition, self.kind, *nodes
        return hashlib.sha256("\0".join(words).encode()).hexdigest()


class _Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, file: str, module: cst.Module):
        super().__init__()
        self.file, self.module = file, module
        self.mutants: list[Mutant] = []
        self._names: list[str] = []
        self._scopes: list[tuple[int, int]] = [(0, 0)]
        self._raising = 0
        self._statement = -1
        self._top = {id(statement): i for i, statement in enumerate(module.body)}

    def on_visit(self, node: cst.CSTNode) -> bool:
        self._statement = self._top.get(id(node), self._statement)
        if _never(node):
            return False
        self._raising += _tells_people(node)
        # Texts for people: tests look for the words that matter in them, and not for every letter.
        if not (self._raising and isinstance(node, cst.BaseString)):
            for kind, operator in OPERATORS:
                if isinstance(node, kind):
                    self._add(operator.__name__, node, operator(node))
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            self._names.append(node.name.value)
            self._scopes.append(self._span(node))
        return True

    def on_leave(self, node: cst.CSTNode) -> None:
        self._raising -= _tells_people(node)
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)) and not _never(node):
            self._names.pop(), self._scopes.pop()

    def _span(self, node: cst.CSTNode) -> tuple[int, int] | None:
        position = self.get_metadata(PositionProvider, node, None)  # some nodes, such as commas, have none
        return None if position is None else (position.start.line, position.end.line)

    def _add(self, operator: str, node: cst.CSTNode, changed: Iterable[cst.CSTNode]) -> None:
        lines = self._span(node)
        if lines is None or self._statement < 0:
            return
        place = self.file, ".".join(self._names), KINDS[operator], lines, self._scopes[-1]
        self.mutants += [Mutant(*place, self.module, self._statement, node, new) for new in changed]


def _never(node: cst.CSTNode) -> bool:
    """Types, imports and decorators are no behaviour; `len`, `isinstance` and zip's `strict` only ever raise."""
    if isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value == "strict":
        return True
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
        return node.func.value in ("len", "isinstance")
    if isinstance(node, (cst.Assign, cst.AnnAssign)):
        # What the table of heads in the documentation says; it is compared when that is rendered.
        target = node.targets[0].target if isinstance(node, cst.Assign) else node.target
        return isinstance(target, cst.Name) and target.value in ("__all__", "source", "cost")
    return isinstance(node, (cst.Annotation, cst.Import, cst.ImportFrom, cst.Decorator))


def _tells_people(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        receiver = node.func.value
        return isinstance(receiver, cst.Name) and receiver.value in ("warnings", "logger")
    return isinstance(node, cst.Raise)


def find_mutants(file: str, root: Path = ROOT) -> list[Mutant]:
    """All changes of one file that its own syntax allows."""
    wrapper = MetadataWrapper(cst.parse_module((root / file).read_text(encoding="utf-8")))
    finder = _Finder(file, wrapper.module)
    wrapper.visit(finder)
    return finder.mutants


def draw_mutants(mutants: list[Mutant], number: int, seed: int) -> list[Mutant]:
    """`number` of one file's mutants, drawn evenly from the kinds of change, so that the easy ones do not crowd."""
    queues = defaultdict(list)
    for mutant in mutants:
        queues[mutant.kind].append(mutant)
    for queue in queues.values():
        queue.sort(key=lambda mutant: hashlib.sha256(f"{seed}{mutant.draw}".encode()).digest(), reverse=True)
    drawn, keys = [], set()
    while len(drawn) < number and any(queues.values()):
        for kind in sorted(queues):
            if queues[kind] and len(drawn) < number:
                mutant = queues[kind].pop()
                if mutant.key not in keys and _compiles(mutant):
                    keys.add(mutant.key)
                    drawn.append(mutant)
    return drawn


def _compiles(mutant: Mutant) -> bool:
    try:
        compile(mutant.code, mutant.file, "exec")
    except SyntaxError:  # such as an argument without a name behind one that has one
        return False
    return mutant.before != mutant.after


def shares(counts: dict[str, int], number: int, least: int = 10) -> dict[str, int]:
    """How many to draw from each file: in proportion to the mutants it has, `least` where it has as many."""
    total = sum(counts.values())
    return {file: min(count, max(least, round(number * count / total))) for file, count in counts.items()}
