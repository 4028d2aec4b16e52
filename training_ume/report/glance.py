"""What the README says of scores: its claim in words and one small table, from results files."""

from __future__ import annotations

from configuration_ume.scores import NAMES
from training_ume.report.markdown import markdown

# The README's rows, at most eight: the head this project is about, those that come closest to it somewhere, the usual
# baselines, and the model that never sees a picture.
SHOWN = ("ume", "ban", "product", "pair", "concat", "evc", "co_attention", "question_only")


def plus_minus(score: dict) -> str:
    return f"{score['mean']:.1f}" + ("" if score["sd"] is None else f" ± {score['sd']:.1f}")


def behind_mark(row: dict) -> str:
    """▼ where the interval of what `ume` is ahead by lies above 0, ▲ where it lies below."""
    low, high = row.get("behind", {"interval": (0.0, 0.0)})["interval"]
    return " ▼" if low > 0 else " ▲" if high < 0 else ""


def by_name(results: dict, key: str) -> dict[str, dict]:
    return {row["name"]: row for row in results[key]}


def claim(quickstart: dict, heads: dict, drawings: dict, photographs: dict) -> str:
    """
    What holds of `ume`, with its limits.

    Args:
        quickstart, heads: results of `ume train easy_vqa` and of the other heads under the same recipe.
        drawings, photographs: arenas of easy-VQA and of DAQUAR.
    """
    [own] = [row for row in quickstart["comparison"] if row["name"] == "ume"]
    first, second = sorted(drawings["rows"], key=lambda row: -row[drawings["metric"]]["mean"])[:2]
    if first["name"] != "ume":
        raise ValueError(f"The claim says that ume learns easy-VQA soonest, but {first['name']} leads its arena.")
    epochs = quickstart["arguments"]["training"]["num_train_epochs"]
    # A head is there, too, when its errors are at most twice as many as `ume`'s.
    least = 100 - 2 * (100 - own["vqa_accuracy"]["mean"])
    there = [
        f"`{row['name']}`"
        for row in sorted(heads["comparison"], key=lambda row: -row["vqa_accuracy"]["mean"])
        if row["name"] != "ume" and row["vqa_accuracy"]["mean"] >= least
    ]
    higher = f" It does not end higher: after {epochs:g} epochs {', '.join(there)} are there, too." if there else ""
    metric, rows = photographs["metric"], by_name(photographs, "rows")
    product, concat = (
        "{:+.2f} points ({:+.2f} … {:+.2f})".format(behind["mean"], *behind["interval"])
        for behind in (rows["product"]["behind"], rows["concat"]["behind"])
    )
    return (
        f"**{own['vqa_accuracy']['mean']:.1f} % on easy-VQA's test questions, from scratch, in "
        f"{own['train_cpu_seconds'] / 60:.1f} minutes of processor time** (one seed). `ume` learns it sooner than "
        f"other heads of its size: after {drawings['epochs']:g} epochs "
        f"{first[drawings['metric']]['mean']:.1f} against {second[drawings['metric']]['mean']:.1f} of the next."
        f"{higher}\n\n"
        f"On photographs (DAQUAR, frozen encoders) the lead is small or none: {NAMES[metric]} of `ume` minus that of "
        f"`product` is {product}, minus that of `concat` {concat}. The intervals are over images and count neither "
        f"seeds nor that {len(rows) - 1} rows are compared: one that lies close to 0 is no certain lead."
    )


def glance_table(quickstart: dict, heads: dict, drawings: dict, photographs: dict) -> str:
    """The same results as a Markdown table, a row a name of `SHOWN`; scores in percent."""
    fast, photos = by_name(drawings, "rows"), by_name(photographs, "rows")
    # What the quickstart trains is measured with the head as it is; the other heads' runs had the same recipe.
    long = {**by_name(heads, "comparison"), **by_name(quickstart, "comparison")}
    header = [
        "",
        f"easy-VQA, {drawings['epochs']:g} epochs",
        f"easy-VQA, {quickstart['arguments']['training']['num_train_epochs']:g} epochs",
        "CPU s of these",
        f"DAQUAR ({NAMES[photographs['metric']]})",
    ]
    rows = []
    for name in SHOWN:
        rows.append(
            [
                name.replace("_", " ") if name == "question_only" else f"`{name}`",
                plus_minus(fast[name][drawings["metric"]]) + behind_mark(fast[name]),
                plus_minus(long[name]["vqa_accuracy"]),
                f"{long[name]['train_cpu_seconds']:.0f}",
                plus_minus(photos[name][photographs["metric"]]) + behind_mark(photos[name]),
            ]
        )
    return markdown(header, rows, right=tuple(range(1, len(header))))
