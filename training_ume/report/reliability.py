"""The tables of docs/reliability.md, from results/*.json: which releases work together, which faults and inputs were
survived, which of transformers' own tests pass, which changed lines a test noticed. Each function takes the contents
of one results file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from training_ume.records.files import read_json
from training_ume.report.common_tests import common_tests_table
from training_ume.report.markdown import markdown
from training_ume.report.releases import releases_table


def reliability_sections(folder: Path) -> dict:
    """Section name → what makes its text, from `folder/NAME.json`."""

    def section(name, make):
        def text() -> str:
            results = read_json(folder / f"{name}.json")
            return "Not run yet." if results is None else make(results)

        return text

    return {name: section(name, make) for name, make in TABLES.items()}


def inputs_table(results: dict) -> str:
    """Of `scripts/try_inputs.py`: how many cases of each kind ended how."""
    kinds = {**results["kinds"], "**all**": Counter()}
    for counts in results["kinds"].values():
        kinds["**all**"].update({name: counts[name] for name in OUTCOMES})
    rows = [[kind, f"{sum(counts[name] for name in OUTCOMES):,}", *(f"{counts[name]:,}" for name in OUTCOMES)]
            for kind, counts in kinds.items()]  # fmt: skip
    hardware, versions = results["environment"]["hardware"], results["environment"]["versions"]
    return (
        f"{markdown(['', 'cases', *OUTCOMES], rows, right=(1, 2, 3, 4))}\n\n`python scripts/try_inputs.py`, seed "
        f"{results['seed']}: hypothesis {results['hypothesis']}, torch {versions['torch']}, transformers "
        f"{versions['transformers']}, pillow {versions['pillow']}, Python {versions['python']}, on {hardware['cpu']}."
    )


def faults_table(results: dict) -> str:
    """Of `scripts/try_faults.py`: how many trials of each fault found what they demand."""
    rows = [
        [name, f"{found['survived']} of {found['trials']}", found["demands"], "; ".join(
            f"{count} × {where}" for where, count in sorted(found["met"].items())
        )]
        for name, found in results["faults"].items()
    ]  # fmt: skip
    trials = sum(found["trials"] for found in results["faults"].values())
    survived = sum(found["survived"] for found in results["faults"].values())
    hardware, versions = results["environment"]["hardware"], results["environment"]["versions"]
    return (
        f"{markdown(['fault', 'survived', 'that is, each time', 'where it met the run'], rows, right=(1,))}\n\n"
        f"{survived} of {trials} trials: `python scripts/try_faults.py`, seed {results['seed']}: torch "
        f"{versions['torch']}, transformers {versions['transformers']}, Python {versions['python']}, on "
        f"{hardware['cpu']}, {hardware['cores']} cores."
    )


def mutants_table(results: dict) -> str:
    """Of `scripts/try_mutants.py`: how many changed lines of each file a test noticed."""
    names = "tried", "noticed", "explained", "unnoticed"
    total = {name: sum(found[name] for found in results["files"].values()) for name in ("mutants", *names)}
    files = {**{f"`{file}`": found for file, found in results["files"].items()}, "**all**": total}
    rows = [[file, *(f"{found[name]:,}" for name in ("mutants", *names))] for file, found in files.items()]
    kinds = [[kind, *(f"{found[name]:,}" for name in names)] for kind, found in results["kinds"].items()]
    missed = [f"- `{m['in'] or m['file']}`: `{m['before']}` → `{m['after']}`" for m in results["unnoticed"]]
    hardware, versions = results["environment"]["hardware"], results["environment"]["versions"]
    hours = sum(results["seconds"][name] for name in ("cpu_tests", "cpu_mutants")) / 3600
    share = (total["noticed"] + total["explained"]) / total["tried"]
    return "\n\n".join(
        [
            markdown(["", "possible", *names], rows, right=(1, 2, 3, 4, 5)),
            markdown(["", *names], kinds, right=(1, 2, 3, 4)),
            *(["Neither noticed nor explained:\n\n" + "\n".join(missed)] if missed else []),
            f"{share:.1%} of {total['tried']:,} noticed or explained, {results['endless']} of them by never ending: "
            f"`bash scripts/mutants.sh`, seed {results['seed']}, in {hours:.1f} hours of one core, of the lines as "
            f"commit {results['lines']} has them: mutmut "
            f"{results['mutmut']}, torch {versions['torch']}, transformers {versions['transformers']}, Python "
            f"{versions['python']}, on {hardware['cpu']}, {hardware['cores']} cores.",
        ]
    )


OUTCOMES = ("right result", "clear exception", "anything else")

# One line each; the results file is results/NAME.json.
TABLES = {
    "releases": releases_table,
    "faults": faults_table,
    "inputs": inputs_table,
    "common_tests": common_tests_table,
    "mutants": mutants_table,
}
