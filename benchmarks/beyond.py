#!/usr/bin/env python
"""Small tables scored in folds: each row of them is predicted once by a model that never saw it, nor its group.

python benchmarks/beyond.py houses.csv --images images --recipe houses --out results/beyond/houses.json
python benchmarks/beyond.py features.npz --recipe emotion --by actor --out results/beyond/emotion.json

The groups (rows, or with --by the values of a column) are dealt into folds by each seed; a fold is scored once, and
the epoch is chosen on a share of the others. A model of each kind of data alone stands beside; --beside adds heads.
Everything behind -- is for the recipe: -- --vision_model NAME --feature_cache features/houses.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from configuration_ume.parsing import parse_recipe
from training_ume.data.inputs import BLIND
from training_ume.data.splits import split_rows
from training_ume.data.tables.load import load_rows
from training_ume.records.comparison import comparison_rows
from training_ume.records.files import write_json
from training_ume.training.run import train_and_evaluate

CHOSEN_ON = 0.12  # of what is not scored, to choose the epoch


def folds_of(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which fold each row is in [rows], all rows of a group in one."""
    names = np.unique(groups)
    dealt = np.random.default_rng(seed).permutation(len(names)) % count
    return dealt[np.searchsorted(names, groups)]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--images")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--by", help="column whose values are not divided between folds")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--beside", nargs="*", default=[], help="other heads")
    parser.add_argument("--alone", type=int, default=1, help="0 leaves out the models of one kind of data")
    parser.add_argument("--out", required=True)
    own, further = argv, []
    if "--" in argv:
        own, further = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    args = parser.parse_args(own)
    base = [args.recipe, "--data", args.data, "--output_dir", "unused", "--disable_tqdm", "true", *further]
    base += ["--images", args.images] if args.images else []
    recipe = parse_recipe(base)
    rows = load_rows(
        args.data, images=args.images, columns=recipe.data.columns, numbers=recipe.model.problem_type == "regression"
    )
    groups = np.asarray(rows[args.by][:] if args.by else range(len(rows)))
    columns = {column: name for name, column in BLIND.items()}
    kinds = {"": [], **{head: ["--fusion", head] for head in args.beside}}
    if args.alone:
        seen = [columns[column] for column in columns if column in rows.column_names]
        kinds |= {name: ["--inputs", BLIND[name]] for name in seen if any(map(bool, rows[BLIND[name]][:]))}
    runs, environment = [], None
    for seed in args.seeds:
        fold = folds_of(groups, args.folds, seed)
        found: dict[str, list[dict]] = {name: [] for name in kinds}
        for number in range(args.folds):
            test = rows.select(np.flatnonzero(fold == number))
            train, validation = split_rows(rows.select(np.flatnonzero(fold != number)), CHOSEN_ON, seed, args.by)
            parts = {"train": train, "validation": validation, "test": test}
            for name, changes in kinds.items():
                with tempfile.TemporaryDirectory() as folder:
                    argv = [*base, *changes, "--seed", str(seed), "--output_dir", f"{folder}/run"]
                    each = parse_recipe(argv)
                    each.data.data = [f"{part}: {len(of)} rows in memory" for part, of in parts.items()]
                    train_and_evaluate(each, parts)
                    results = json.loads(Path(folder, "run", "results.json").read_text(encoding="utf-8"))
                found[name].append(results)
                environment = results["environment"]
                first = results["scores"]["measured_by"]
                print(f"seed {seed}, fold {number}, {name or results['name']}: {results['scores'][first]}", flush=True)
        for name, of_folds in found.items():
            one = of_folds[0]
            scores = {
                key: statistics.mean(each["scores"][key] for each in of_folds)
                for key, value in one["scores"].items()
                if isinstance(value, (int, float))
            }
            kept = {key: one[key] for key in ("seed", "arguments", "parameters")}
            seconds = {key: sum(each[key] for each in of_folds) for key in ("train_seconds", "train_cpu_seconds")}
            scores["measured_by"] = one["scores"]["measured_by"]
            runs.append({"name": name or one["name"], "scores": scores, **kept, **seconds})
    environment.pop("command", None)
    write_json(
        args.out,
        {
            "recipe": args.recipe,
            "scored_on": "test",
            "folds": {"count": args.folds, "by": args.by, "seeds": args.seeds},
            "data": {"test_questions": len(rows)},
            "baselines": {},
            "comparison": comparison_rows(runs),
            "environment": environment,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
