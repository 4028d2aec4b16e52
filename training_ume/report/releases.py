"""What `scripts/test_releases.sh` found out about releases of transformers: what failed, and the table of it.

The results are those of `scripts/releases.py`: a row a checkpoint and pair of releases, a row a training.
"""

from __future__ import annotations

from collections.abc import Iterator

from training_ume.report.markdown import markdown

TOLERANCE = 1e-5
COMPARED = ("logits", "fused", "processor", "pipeline")

# What is known not to work, and why: anything else that fails is a failure.
KNOWN = {
    "renamed": (
        "an adapter of other releases: those from 5.10 on name ViT's layers otherwise than those before, and an "
        "adapter is bound to names; the merged model loads everywhere"
    ),
    "moved": (
        "a moved adapter: 5.0 looks for its base only where that lay in training, and gives up before any code of the "
        "checkpoint runs"
    ),
}


def known_reason(row: dict) -> str | None:
    """The name in `KNOWN` of a refusal that is expected, None for any other outcome."""
    error, moved = row["error"] or "", row["case"] == "adapter, moved"
    if moved and row["loaded_by"].startswith("5.0.") and error.startswith("OSError"):
        return "moved"
    other_release = row["case"].startswith("adapter") and row["saved_by"] != row["loaded_by"]
    return "renamed" if other_release and "does not fit this model" in error else None


def failures(results: dict) -> list[str]:
    """One line for everything that did not hold and is not known; also for what was not even tried."""
    found = []
    releases, newest = results["releases"], results["newest"]
    for release in releases:
        pairs = {(newest, release), (release, newest), (release, release)}
        for saved_by, loaded_by in sorted(pairs):
            for case in results["cases"]:
                if not _rows(results, case, saved_by, loaded_by):
                    found.append(f"{case}: saved by {saved_by}, never loaded by {loaded_by}")
        if release not in results["training"]:
            found.append(f"{release}: nothing was trained")
    for row in results["loads"]:
        where = f"{row['case']}, saved by {row['saved_by']}, loaded by {row['loaded_by']}"
        if row["error"] is not None:
            if known_reason(row) is None:
                found.append(f"{where}: {row['error']}")
            continue
        for name in COMPARED:
            if not row[name] <= TOLERANCE:  # also for NaN
                found.append(f"{where}: {name} differ by {row[name]:.1e}")
    for release, training in results["training"].items():
        if training["error"] is not None:
            found.append(f"training with {release}: {training['error']}")
            continue
        if training["resumed"] != 0:
            found.append(f"training with {release}: resumed weights differ by {training['resumed']:.1e}")
        if not training["best"] <= TOLERANCE:
            found.append(f"training with {release}: the model kept is not the best checkpoint's")
        if not training["moved"] > TOLERANCE:
            found.append(f"training with {release}: the weights did not move, so nothing was shown")
    return found


def _rows(results: dict, case: str, saved_by: str, loaded_by: str) -> list[dict]:
    wanted = (case, saved_by, loaded_by)
    return [row for row in results["loads"] if (row["case"], row["saved_by"], row["loaded_by"]) == wanted]


def _cell(rows: list[dict], names: tuple[str, ...]) -> str:
    """The largest difference of several rows; of what failed, that it did."""
    if not rows:
        return "not run"
    reasons = {known_reason(row) or "**failed**" for row in rows if row["error"] is not None}
    if reasons:
        return ", ".join(sorted("refused" if reason in KNOWN else reason for reason in reasons))
    return _number(max(row[name] for row in rows for name in names))


def _number(difference: float) -> str:
    return f"{difference:.0e}" if difference else "0"


def matrix(results: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row a release, a column a thing that was tried."""
    newest, models = results["newest"], [case for case in results["cases"] if not case.startswith("adapter")]

    def cell(saved_by: str, loaded_by: str, cases: list[str], names: tuple[str, ...] = ("logits",)) -> str:
        return _cell([row for case in cases for row in _rows(results, case, saved_by, loaded_by)], names)

    header = ["transformers", f"reads {newest}'s", f"{newest} reads its", "Auto classes, processor, pipeline",
              "training, resumed", "LoRA adapter", f"{newest}'s adapter", f"its adapter on {newest}",
              "adapter, moved"]  # fmt: skip
    rows = []
    for release in results["releases"]:
        training = results["training"].get(release, {"error": "not run"})
        rows.append(
            [
                release,
                cell(newest, release, models),
                cell(release, newest, models),
                cell(release, release, models, COMPARED),
                "**failed**" if training["error"] else _number(training["resumed"]),
                *(
                    cell(saved_by, loaded_by, [case])
                    for saved_by, loaded_by, case in (
                        (release, release, "adapter"),
                        (newest, release, "adapter"),
                        (release, newest, "adapter"),
                        (release, release, "adapter, moved"),
                    )
                ),
            ]
        )
    return header, rows


def _notes(results: dict) -> Iterator[str]:
    reasons = {known_reason(row) for row in results["loads"]}
    for name, reason in KNOWN.items():
        if name in reasons:
            yield f"- Refused, {reason}."
    for failure in failures(results):
        yield f"- **Failed**: {failure}"


def releases_table(results: dict) -> str:
    """The matrix with the reasons for what is refused, the checkpoints tried, and where and with what it was run."""
    header, rows = matrix(results)
    table = markdown(header, rows, right=tuple(range(1, len(header))))
    hardware = results["environment"]["hardware"]
    pythons = sorted({versions["python"] for versions in results["versions"].values() if versions})
    ran = (
        f"Checkpoints: {'; '.join(results['cases'].values())}. Run on {hardware['cpu']}, {hardware['cores']} cores, "
        f"torch {results['environment']['versions']['torch']}, Python {', '.join(pythons)}."
    )
    return "\n".join([table, "", *_notes(results), "", ran])
