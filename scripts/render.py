#!/usr/bin/env python
"""Write the tables of README.md and docs/ from the results files and from the code.

python scripts/render.py
python scripts/render.py --check
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from modeling_ume import FUSIONS
from training_ume.data.sources.table import SOURCES
from training_ume.evidence.thesis import steps_table
from training_ume.report.ablations import ablations_table
from training_ume.report.arena import PLOTS, arena_overview, arena_page, arena_plot, arena_table
from training_ume.report.benchmarks import benchmarks_table, compile_table, demo_table, long_run_table
from training_ume.report.beyond import beyond_tables
from training_ume.report.explanation import modality_table
from training_ume.report.faithfulness import explanations_table
from training_ume.report.glance import claim, glance_table
from training_ume.report.heads_and_encoders import encoders_table, features_table, heads_table
from training_ume.report.markdown import markdown, measured_on
from training_ume.report.reliability import reliability_sections
from training_ume.report.sources import sources_table
from training_ume.report.thesis import proof_tables, references_table, rows_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
HEADS_RESULTS = RESULTS / "easy_vqa_heads.json"
# The tables of docs/results.md, in this order.
TITLES = {
    "easy_vqa": "easy-VQA, small encoders from scratch: the quickstart",
    "easy_vqa_best": "easy-VQA, trained for longer: recipe `easy_vqa_best`",
    "daquar": "DAQUAR, MiniLM × ViT-tiny frozen, 7×7 image tokens: recipe `daquar`",
}
# The arenas, by title; each is results/NAME.json of `ume arena`, and the first one stands in docs/results.md in full.
ARENAS = {
    "DAQUAR, MiniLM × ViT-tiny frozen": "arena_daquar",
    "DAQUAR, MiniLM × MobileNetV2 frozen": "arena_daquar_mobilenet",
    "VQA v2 sample, MiniLM × ViT-tiny frozen": "arena_vqa_v2_sample",
    "VQA v2 sample, MiniLM × MobileNetV2 frozen": "arena_vqa_v2_sample_mobilenet",
    "easy-VQA, small encoders from scratch": "arena_easy_vqa",
}


def table(path: Path) -> str:
    """One results file of `ume train` as a Markdown table, with the machine and the versions under it."""
    results = json.loads(path.read_text(encoding="utf-8"))
    lines = ["| | VQA accuracy | exact match | seeds | training, s | CPU s | parameters |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for name, scores in results["baselines"].items():
        lines.append(
            f"| {name.replace('_', ' ')} (nothing trained) | {scores['vqa_accuracy']:.2f} "
            f"| {scores['exact_match']:.2f} | | | | |"
        )
    for row in sorted(results["comparison"], key=lambda row: -row["exact_match"]["mean"]):
        lines.append(
            f"| {row['name'].replace('_', ' ')} | {mean(row['vqa_accuracy'])} | {mean(row['exact_match'])} "
            f"| {len(row['seeds'])} "
            f"| {row['train_seconds']:.0f} | {row['train_cpu_seconds']:.0f} | {row['parameters']['total']:,} |"
        )
    data = results["data"]
    if "test_questions" in data:
        scored = (
            f"Scored once, on the {data['test_questions']:,} test questions; the best epoch was chosen on "
            f"{data['validation_questions']:,} training questions held out by image."
        )
    else:
        scored = f"Scored on the {data['validation_questions']:,} validation questions, which also chose the epoch."
    return "\n".join([*lines, "", f"{scored} {measured_on([results['environment']], 'torch', 'transformers')}"])


def mean(score: dict) -> str:
    return f"{score['mean']:.2f}" + ("" if score["sd"] is None else f" ± {score['sd']:.2f}")


def results_tables() -> str:
    return "\n\n".join(f"**{title}**\n\n{table(RESULTS / f'{name}.json')}" for name, title in TITLES.items())


def heads_trained() -> str:
    trained = {row["name"] for row in json.loads(HEADS_RESULTS.read_text(encoding="utf-8"))["comparison"]}
    missing = sorted(FUSIONS.keys() - trained)
    return table(HEADS_RESULTS) + (f"\n\nNot trained yet: {', '.join(missing)}." if missing else "")


def arenas() -> dict[str, dict]:
    paths = {title: RESULTS / f"{name}.json" for title, name in ARENAS.items()}
    return {title: json.loads(path.read_text(encoding="utf-8")) for title, path in paths.items() if path.exists()}


def arena_tables() -> str:
    """All arenas side by side, then the first one in full; the page has each of them in full."""
    found = arenas()
    if not found:
        return "Not run yet."
    title, summary = next(iter(found.items()))
    return f"{arena_overview(found)}\n\n**{title}**\n\n{arena_table(summary)}"


def at_a_glance() -> list[dict]:
    """Results that the README speaks of: quickstart, all heads under its recipe, arena of drawings, of photographs."""
    names = ("easy_vqa", "easy_vqa_heads", "arena_easy_vqa", "arena_daquar")
    return [json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in names]


def thesis() -> dict:
    return json.loads((RESULTS / "thesis.json").read_text(encoding="utf-8"))


def ablations() -> str:
    path = RESULTS / "ablations_daquar.json"
    if not path.exists():
        return "Not measured yet."
    return f"DAQUAR, MiniLM × ViT-tiny frozen:\n\n{ablations_table(json.loads(path.read_text(encoding='utf-8')))}"


def write_pictures() -> None:
    """The arenas' page and plots in docs/arena, and what a benchmark drew in docs/speed.

    Not compared by --check, as matplotlib's releases draw differently.
    """
    # The site's pages reach no file outside of docs/.
    (ROOT / "docs" / "speed").mkdir(exist_ok=True)
    shutil.copy(ROOT / "benchmarks" / "results" / "training_cpu.png", ROOT / "docs" / "speed")
    folder = ROOT / "docs" / "arena"
    folder.mkdir(exist_ok=True)
    summaries = arenas()
    (folder / "index.html").write_text(arena_page(summaries), encoding="utf-8")
    for title, summary in summaries.items():
        for plot in PLOTS:
            (folder / f"{ARENAS[title]}_{plot}.png").write_bytes(arena_plot(summary, plot))


def ume_form() -> str:
    recipes = ("daquar", "daquar_members")
    return "\n\n".join(f"**Recipe `{name}`**\n\n{table(RESULTS / f'{name}.json')}" for name in recipes)


def modalities() -> str:
    found = json.loads((ROOT / "docs" / "explain" / "modalities.json").read_text(encoding="utf-8"))
    header, *rows = map(list, modality_table(found["kinds"]))
    return markdown(header, rows, right=tuple(range(1, len(header))))


def benchmark(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


# The arenas that stand beside the thesis' own steps: one that asks for shapes and colours, one about photographs.
STEP_BY_STEP = [title for title, name in ARENAS.items() if name in ("arena_easy_vqa", "arena_daquar")]

# What stands between `<!-- name:begin -->` and `<!-- name:end -->` of each file.
SECTIONS = {
    "README.md": {
        "claim": lambda: claim(*at_a_glance()),
        "glance": lambda: glance_table(*at_a_glance()),
    },
    "docs/data.md": {"sources": lambda: sources_table(SOURCES.values())},
    "docs/results.md": {"results": results_tables, "arena": arena_tables},
    "docs/speed.md": {"benchmarks": lambda: benchmarks_table(ROOT / "benchmarks" / "results")},
    "docs/heads_and_encoders.md": {
        "heads": heads_table,
        "heads_trained": heads_trained,
        "encoders": encoders_table,
    },
    "docs/modalities.md": {"beyond": lambda: beyond_tables(RESULTS / "beyond")},
    "docs/feature_cache.md": {"features": features_table},
    "docs/explain.md": {
        "modalities": modalities,
        "explanations": lambda: explanations_table(benchmark("explanations")),
    },
    "docs/demo.md": {"demo": lambda: demo_table(benchmark("demo"))},
    "docs/export.md": {"compile": lambda: compile_table(benchmark("compile_cpu"))},
    "docs/ablations.md": {"ablations": ablations},
    "docs/ume_form.md": {"ume_form": ume_form},
    "docs/reliability.md": {
        **reliability_sections(RESULTS),
        "long_run": lambda: "\n\n".join(long_run_table(benchmark(name)) for name in ("long_run", "long_run_since")),
    },
    "docs/thesis.md": {
        "rows": lambda: rows_table(thesis()),
        "steps": lambda: steps_table({title: arenas()[title] for title in STEP_BY_STEP}),
        "references": references_table,
        "proof": lambda: proof_tables(thesis()),
    },
}


def render(text: str, sections: dict[str, Callable[[], str]]) -> str:
    for name, make in sections.items():
        before, rest = text.split(f"<!-- {name}:begin -->\n")
        _, after = rest.split(f"<!-- {name}:end -->")
        text = f"{before}<!-- {name}:begin -->\n{make()}\n<!-- {name}:end -->{after}"
    return text


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not up to date")
    arguments = parser.parse_args(argv)
    stale = []
    for name, sections in SECTIONS.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        rendered = render(text, sections)
        if rendered != text:
            stale.append(name)
            if not arguments.check:
                (ROOT / name).write_text(rendered, encoding="utf-8")
    if not arguments.check:
        write_pictures()
    if arguments.check and stale:
        print(f"Out of date: {', '.join(stale)}. Run python scripts/render.py.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
