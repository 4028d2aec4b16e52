#!/usr/bin/env python
"""Write the results tables of README.md from the JSON files in results/.

python scripts/render.py
python scripts/render.py --check
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results:begin -->\n", "<!-- results:end -->"


def table(path: Path) -> str:
    """One results file of scripts/train.py as a Markdown table, with the machine and the versions under it."""
    results = json.loads(path.read_text(encoding="utf-8"))
    lines = [f"| {path.stem} | VQA accuracy | seeds | training, s | parameters |", "|---|---:|---:|---:|---:|"]
    for name, scores in results["baselines"].items():
        lines.append(f"| {name.replace('_', ' ')} (nothing trained) | {scores['vqa_accuracy']:.2f} | | | |")
    for row in results["comparison"]:
        score = row["vqa_accuracy"]
        spread = "" if score["sd"] is None else f" ± {score['sd']:.2f}"
        lines.append(
            f"| {row['name'].replace('_', ' ')} | {score['mean']:.2f}{spread} | {len(row['seeds'])} "
            f"| {row['train_seconds']:.0f} | {row['parameters']['total']:,} |"
        )
    data = results["data"]
    if "test_questions" in data:
        scored = (
            f"Scored once, on the {data['test_questions']:,} test questions; the best epoch was chosen on "
            f"{data['validation_questions']:,} training questions held out by image."
        )
    else:
        scored = f"Scored on the {data['validation_questions']:,} validation questions, which also chose the epoch."
    hardware, versions = results["environment"]["hardware"], results["environment"]["versions"]
    measured = f"{hardware['cpu']}, {hardware['cores']} cores, torch {versions['torch']}"
    return "\n".join([*lines, "", f"{scored} Measured on {measured}, transformers {versions['transformers']}."])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README.md is not up to date")
    arguments = parser.parse_args(argv)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    tables = "\n\n".join(table(path) for path in sorted((ROOT / "results").glob("*.json")))
    rendered = f"{before}{BEGIN}{tables}\n{END}{rest.split(END, 1)[1]}"
    if arguments.check:
        return int(rendered != text)
    readme.write_text(rendered, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
