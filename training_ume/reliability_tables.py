"""The tables of docs/reliability.md, from results/*.json: which releases work together, which faults and inputs were
survived. Each function takes the contents of one results file."""

from __future__ import annotations

from pathlib import Path

from training_ume.results import read_json


def reliability_sections(folder: Path) -> dict:
    """Section name → what makes its text, from `folder/NAME.json`."""

    def section(name, make):
        def text() -> str:
            results = read_json(folder / f"{name}.json")
            return "Not run yet." if results is None else make(results)

        return text

    return {name: section(name, make) for name, make in TABLES.items()}


# One line each; the results file is results/NAME.json.
TABLES = {}
