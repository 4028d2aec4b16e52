"""Packages that not everybody installs, asked for before the work whose result needs them."""

from __future__ import annotations

from importlib.util import find_spec


def need_matplotlib() -> None:
    """Raises ImportError where matplotlib is missing; asked before the work whose result is to be drawn."""
    if find_spec("matplotlib") is None:
        raise ImportError("Drawing a curve needs the package matplotlib: `pip install matplotlib`.")
