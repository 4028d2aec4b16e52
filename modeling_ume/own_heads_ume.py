"""Fusion heads from outside this package: `@register_fusion("name")`, or a file and its class, `my_head.py:MyHead`.

A config records where the head is from, and saving copies its file beside the others: so it loads anywhere with
`trust_remote_code=True`. A head whose file cannot travel is refused when it is saved.
"""

import hashlib
import os
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import cached_file

from .fusion_base_ume import FusionHead
from .fusion_ume import FUSIONS
from .travelling_ume import own_name, run, travelling
from .trust_ume import HUB_ARGUMENTS, ForeignCodeError, read_quietly

# The files by which transformers loads a checkpoint. Its release 5.0 copies no more than what these import.
ENTRIES = ("configuration_ume.py", "modeling_ume.py")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
FILE = re.compile(r"(?P<file>.*\.py):(?P<head>[A-Za-z_][A-Za-z0-9_]*)", re.DOTALL)


@dataclass(frozen=True)
class OwnHead:
    """A head from outside: its class, its file and what that holds once it travels, and why it cannot (sentences)."""

    head: type[FusionHead]
    file: Path | None
    text: str
    problems: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{'?' if self.file is None else self.file.name}:{self.head.__name__}"


OWN: dict[str, OwnHead] = {}


def register_fusion(name: str):
    r"""
    Makes a head known under a name that `UMEConfig(fusion=…)` and recipes take, like those of this package:

    ```python
    @register_fusion("spread")
    class Spread(FusionHead): ...
    ```

    Its file is copied into every checkpoint, so the class has to stand in a file of its own kind: not in a notebook or
    the script that is run, and importing nothing that lies beside it.

    Raises:
        ValueError: for a class that is no [`FusionHead`], a name of a head that is there, or what is no name.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f'register_fusion takes the head\'s name, not {name!r}: write @register_fusion("my_head"), with letters, '
            "digits, _ and -."
        )

    def register(head: type[FusionHead]) -> type[FusionHead]:
        adopt_head(name, head)
        return head

    return register


def adopt_head(name: str, head: type[FusionHead]) -> None:
    """As `register_fusion`, for names that say the file, too. ValueError as there."""
    if not (isinstance(head, type) and issubclass(head, FusionHead)):
        what = head.__name__ if isinstance(head, type) else type(head).__name__
        raise ValueError(
            f"{what} is no FusionHead, so it cannot be the fusion head {name!r}: inherit from FusionHead."
        )
    _put(name, _described(head))


def _put(name: str, own: OwnHead) -> None:
    if name in FUSIONS and name not in OWN:
        raise ValueError(
            f"The fusion head {name!r} is one of this package, and another ({own.place}) is to be called so: choose "
            f"another name. Taken are {', '.join(sorted(FUSIONS))}."
        )
    before = OWN.get(name)
    if before is not None and before.text != own.text and (before.file, before.place) != (own.file, own.place):
        raise ValueError(
            f"Two fusion heads are called {name!r}: {before.place} of {before.file or 'a notebook'}, and {own.place} "
            f"of {own.file or 'a notebook'}. Rename one of them, or use them in processes of their own."
        )
    OWN[name], FUSIONS[name] = own, own.head


def _described(head: type[FusionHead]) -> OwnHead:
    """What there is to know of a head whose module was imported."""
    module = sys.modules.get(head.__module__)
    place = getattr(module, "__file__", None)
    if head.__module__ == "__main__" or place is None or not os.path.isfile(place):
        where = "a notebook, or the script that is run" if head.__module__ == "__main__" else f"{head.__module__!r}"
        problem = (
            f"it is defined in {where}, not in a file of its own: move it into one, say my_head.py, and import it"
        )
        return OwnHead(head, None, f"{head.__module__}.{head.__qualname__}", (problem,))
    known = getattr(module, "_own_head_text", None)
    text, problems = known or _read(Path(place))[:2]
    return OwnHead(head, Path(place), text, (*_standing(head, Path(place)), *problems))


def _read(file: Path) -> tuple[str, list[str], object]:
    try:
        return travelling(file.read_text(encoding="utf-8-sig"), file)
    except (SyntaxError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{file} cannot be read as Python ({' '.join(str(error).split())}): mend it.") from error


def _standing(head: type, file: Path) -> list[str]:
    """What is wrong with where a class stands."""
    wrong = own_name(file)
    problems = [] if wrong is None else [f"its file is called {file.name}: {wrong}"]
    if head.__qualname__ != head.__name__:
        problems.append(f"it is defined inside of {head.__qualname__.rpartition('.')[0]}: move it to the file's top")
    return problems


def known_head(name) -> str:
    """
    The name under which `FUSIONS` has a head, after loading it where a file is named.

    Args:
        name: a key of `FUSIONS`, or a file and its class, `folder/my_head.py:MyHead`.

    Returns:
        The key: of a file, without its folder.

    Raises:
        ValueError: for any other name, a file that is not there or cannot be run, and a class that is no head.
    """
    named = FILE.fullmatch(name) if isinstance(name, str) else None
    if named is None or (name in OWN and not os.path.isfile(named["file"])):
        check_known(name)
        return name
    file = Path(named["file"]).expanduser()
    if not file.is_file():
        raise ValueError(
            f"fusion={name!r}: there is no file {str(file)!r}. Give its path, as seen from {os.getcwd()}."
        )
    return load_head(file.resolve(), named["head"])


def check_known(name) -> None:
    """Raises ValueError for what is no key of `FUSIONS`."""
    if not isinstance(name, str) or name not in FUSIONS:
        raise ValueError(
            f"fusion={name!r} is not known: choose one of {', '.join(sorted(FUSIONS))}, or name a file of yours with "
            "its class, my_head.py:MyHead."
        )


def load_head(file: Path, head_name: str, name: str | None = None) -> str:
    """
    Runs a file and makes the head in it known, by default as `my_head.py:MyHead`. ValueError as `known_head`.

    Returns:
        That name.
    """
    wrong = own_name(file)
    if wrong is not None:
        raise ValueError(f"The file of a fusion head is called {file.name}, and {wrong}: rename it.")
    text, problems, tree = _read(file)
    name = f"{file.name}:{head_name}" if name is None else name
    digest = hashlib.sha256(f"{file}\n{text}".encode()).hexdigest()[:12]
    # Within this package, wherever it lies: what the file imports of it are the very classes that are used here.
    title = f"{__package__}._{file.stem}_{digest}"
    module = sys.modules.get(title)
    if module is None:
        module = types.ModuleType(title)
        module.__file__, module.__package__ = str(file), __package__
        module._own_head_text = (text, problems)
        sys.modules[title] = module
        try:
            run(tree, file, module)
        except BaseException as error:
            del sys.modules[title]
            if isinstance(error, ForeignCodeError) or not isinstance(error, Exception):
                raise
            raise ValueError(
                f"{file} cannot be run, so it gives no fusion head ({type(error).__name__}: "
                f"{' '.join(str(error).split())})" + (f"; {'; '.join(problems)}." if problems else ".")
            ) from error
    head = getattr(module, head_name, None)
    if head is None:
        there = [key for key, value in vars(module).items() if _is_head(value) and value.__module__ == title]
        raise ValueError(
            f"{file} has no class {head_name}: "
            + (f"its heads are {', '.join(there)}." if there else "write one there that inherits from FusionHead.")
        )
    if not _is_head(head):
        raise ValueError(f"{head_name} of {file} is no fusion head: write a class that inherits from FusionHead.")
    _put(name, OwnHead(head, file, text, (*_standing(head, file), *problems)))
    return name


def _is_head(value) -> bool:
    return isinstance(value, type) and issubclass(value, FusionHead)


def heads_to_know() -> list[tuple[str, str, str]]:
    """The heads from outside by name, file and class, for `know_heads` in another process."""
    return [(name, str(own.file), own.head.__name__) for name, own in OWN.items() if own.file is not None]


def know_heads(heads: list[tuple[str, str, str]]) -> None:
    """Makes known what `heads_to_know` said in the process that began this one."""
    for name, file, head in heads:
        load_head(Path(file), head, name)


def recorded_head(name: str) -> str | None:
    """What a config says of where its head is from, `my_head.py:MyHead`; None for a head of this package."""
    return OWN[name].place if name in OWN else None


def head_digest(name: str) -> str | None:
    """A checksum of what a head's file holds; None for a head of this package."""
    return hashlib.sha256(OWN[name].text.encode()).hexdigest() if name in OWN else None


def check_travels(name: str) -> None:
    """
    Raises:
        ValueError: for a head from outside whose file would not work in a checkpoint that somebody else loads.
    """
    problems = OWN[name].problems if name in OWN else ()
    if problems:
        raise ValueError(
            f"The fusion head {name!r} ({OWN[name].file or OWN[name].head.__name__}) cannot travel with a checkpoint, "
            f"which nobody else could load: {'; '.join(problems)}."
        )


def save_head(name: str, folder: str | os.PathLike) -> None:
    """
    Puts the file of a head from outside beside the files of a checkpoint, and has those import it.

    Raises:
        ValueError: see `check_travels`.
    """
    if name not in OWN:
        return
    check_travels(name)
    own, folder = OWN[name], Path(folder)
    (folder / own.file.name).write_text(own.text, encoding="utf-8")
    head = own.head.__name__
    lines = (
        f"\n# The fusion head of this checkpoint, whose file lies beside this one.\n"
        f"from .own_heads_ume import adopt_head  # noqa: E402\n"
        f"from .{own.file.stem} import {head}  # noqa: E402\n\n"
        f"adopt_head({name!r}, {head})\n"
    )
    for entry in ENTRIES:
        path = folder / entry
        if path.is_file() and lines not in (text := path.read_text(encoding="utf-8")):
            path.write_text(text + lines, encoding="utf-8")


def find_head(name, place, folder: str | os.PathLike | None, trusted: bool, hub: dict) -> None:
    """
    Makes the head of a checkpoint known, for which its file is run, if whoever loads it said that it may be.

    Args:
        name, place: what its config says, as `fusion` and `fusion_file`.
        folder: of the checkpoint, or its Hub name.
        trusted: whether `trust_remote_code=True` was said.
        hub: arguments of loading, of which those of the Hub count.

    Raises:
        ForeignCodeError: for a head that is not known here, and must not be run.
        ValueError: for one that is known here and is not that of the checkpoint.
    """
    named = FILE.fullmatch(place) if isinstance(place, str) else None
    if not isinstance(name, str) or named is None or Path(named["file"]).name != named["file"]:
        return  # a head of this package; of anything else the config says what is wrong
    hub = {key: hub[key] for key in HUB_ARGUMENTS if hub.get(key) is not None}
    try:
        file = Path(cached_file(folder, named["file"], **hub))
        text = _read(file).text
    except (OSError, TypeError):
        file, text = None, None
    if name in OWN:
        if text not in (None, OWN[name].text):
            raise ValueError(
                f"The fusion head {name!r} of {str(folder)!r} is not the one that is known here under this name: its "
                f"{named['file']} differs from {OWN[name].file}. Load it in a process of its own, or rename one."
            )
    elif trusted and text is not None:
        load_head(file, named["head"], name)
    else:
        refuse_head(name, place, folder, file is None)


def head_of(config) -> type[FusionHead]:
    """The class of a config's head. ForeignCodeError for one that its file names, and which is not known here."""
    if config.fusion not in FUSIONS:
        refuse_head(config.fusion, config.fusion_file, config.name_or_path)
    return FUSIONS[config.fusion]


def refuse_head(name: str, place: str, folder, lacking: bool = False) -> None:
    """Raises ForeignCodeError, which says what to do about a head that is not known here."""
    if lacking:
        raise ForeignCodeError(
            f"The fusion head {name!r} of {str(folder)!r} is code of its own, and its file ({place}) is not there: "
            "take the checkpoint as it was saved, or name your own file by fusion=."
        )
    raise ForeignCodeError(
        f"config.json in {str(folder)!r} names a fusion head of its own ({place}), which is not run: it could do "
        "anything on this machine. After reading that file, load it with trust_remote_code=True (in commands "
        "--trust_remote_code); a head of yours is known where its module was imported."
    )


def find_head_of(folder: str | os.PathLike, config, kwargs: dict) -> None:
    """`find_head` for a checkpoint that is about to be loaded, with a config or without, an adapter's too."""
    trusted = bool(kwargs.get("trust_remote_code"))
    fields = read_quietly(folder, "config.json", kwargs)
    if not fields:
        folder = read_quietly(folder, "adapter_config.json", kwargs).get("base_model_name_or_path") or folder
        fields = read_quietly(folder, "config.json", {**kwargs, "revision": None})
    if config is not None:
        fields = {"fusion": getattr(config, "fusion", None), "fusion_file": getattr(config, "fusion_file", None)}
    find_head(fields.get("fusion"), fields.get("fusion_file"), folder, trusted, kwargs)
