"""The table of benchmark figures, from benchmarks/results/*.json: what was to be reached, what was measured, and why
not where it was not. A benchmark without results says so in its row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training_ume.records.files import read_json
from training_ume.report.markdown import markdown, measured_on


@dataclass(frozen=True)
class Figure:
    """One row: what was measured, in words and as text; whether it is enough, None where nothing was to be reached."""

    what: str
    to_reach: str
    measured: str
    reached: bool | None = None
    why_not: str = ""


def ratio(value: float) -> str:
    return f"{value:.1f}×" if value < 20 else f"{value:.0f}×"


def pair_fusion(results: dict) -> Iterator[Figure]:
    summary, time = results["summary"], results["summary"]["time_fit"]
    for name, what, goal in (
        ("faster_than_literal", "the formula written out", 15),
        ("faster_than_materialised", "decomposed, all pairs held", 1.5),
    ):
        value = summary[name]
        yield Figure(
            f"pair sums, forward + backward, against {what}: the slowest of 16 shapes (median)",
            f"{goal}×",
            f"{ratio(value['least'])} ({ratio(value['median'])})",
            value["least"] >= goal,
        )
    share = summary["peak_memory_share_at_577_768"]["value"]
    yield Figure(
        "their peak extra memory at 577 image tokens, D = 768, against all pairs held",
        "1/20",
        f"1/{1 / share:.0f}",
        share <= 1 / 20,
    )
    memory = summary["memory_fit"]
    yield Figure(
        "time linear in N₁·N₂·D; memory linear in (N₁ + N₂)·D + N₁·N₂",
        "a fit",
        f"R² = {time['r2']:.3f} ({time['nanoseconds_per_pair_element']:.1f} ns each); R² = {memory['r2']:.3f}",
    )


def training(results: dict) -> Iterator[Figure]:
    for step in results["steps"]:
        if step["fusion"] != "ume":
            continue
        goal = results["to_reach"]["faster_than_one_encode_a_question"][step["shape"]]
        value = step["faster_than_one_encode_a_question"]
        yield Figure(
            f"questions/s with each image encoded once against once a question, {step['shape']}, "
            f"{step['questions']} questions about {step['images']} images",
            f"{goal}×",
            ratio(value),
            value >= goal,
            "MiniLM's questions are most of what is left: they cannot be shared",
        )
    for step in results["steps"]:
        value = step["encoder_share_of_step"]
        yield Figure(
            f"encoders' own forward + backward in the whole step, {step['shape']}, `{step['fusion']}`",
            "90 %",
            f"{value:.0%}",
            value >= 0.9,
            "so small encoders take hardly longer than the pairs of 197 image tokens",
        )


def grouping(results: dict) -> Iterator[Figure]:
    ways = results["ways"]
    grouped, random = (ways[name]["score"] for name in ("grouped", "random"))
    # The same seed is the same model at the start, so differences are taken seed by seed.
    behind = [b - a for a, b in zip(grouped["each"], random["each"], strict=True)]
    error = statistics.stdev(behind) / len(behind) ** 0.5 if len(behind) > 1 else float("inf")
    mean = statistics.mean(behind)
    less = ways["random"]["train_cpu_seconds"] / ways["grouped"]["train_cpu_seconds"]
    yield Figure(
        f"{results['metric'].replace('_', ' ')} with batches grouped by image, recipe `{results['recipe']}`, "
        f"{results['questions']:,} training questions, {len(behind)} seeds (questions in random order, at "
        f"{less:.1f}× the processor time)",
        "equal within the spread",
        f"{grouped['mean']:.2f} ± {grouped['sd'] or 0:.2f} ({random['mean']:.2f} ± {random['sd'] or 0:.2f})",
        mean <= 2 * error,  # ahead is as good as equal
        "in so few steps neither converges, and grouped batches, with fewer images each, learn more slowly a step",
    )


def features(results: dict) -> Iterator[Figure]:
    for shape in results["shapes"].values():
        for head, found in shape["training"].items():
            value = found["ratio"]
            yield Figure(
                f"heads trained from the feature cache against live encoders, {shape['name']}, {head}",
                "30×",
                f"{value:.1f}×" if value < 30 else ratio(value),
                value >= 30,
                "the head itself is then the step: it forms every pair of tokens",
            )
        for modality in ("vision", "text"):
            value = shape["build"][modality]["ratio"]
            yield Figure(
                f"building the cache against the bare encoder, {shape['name']}, {modality}",
                "95 %",
                f"{value:.0%}",
                value >= 0.95,
                "hashing, decoding and writing share the two cores with the encoder",
            )
        slowest = max(row["ms"] for row in shape["rows"].values())
        yield Figure(f"one cached row at random, hot, {shape['name']}", "0.05 ms", f"{slowest:.3f} ms", slowest < 0.05)
        bits = shape["build"]["bits"]["equal_in_batches_of_the_build"]
        yield Figure(
            f"cached features bit-equal to the encoder's, {shape['name']}", "yes", "yes" if bits else "no", bits
        )


def metric(results: dict) -> Iterator[Figure]:
    yield Figure(
        f"the metric on {results['questions']:,} questions, one core, against the formula word for word",
        "",
        f"{results['cpu_seconds']:.1f} s, {ratio(results['speedup_over_plain'])}",
    )


BENCHMARKS: dict[str, Callable[[dict], Iterator[Figure]]] = {
    "pair_fusion_cpu": pair_fusion,
    "training_cpu": training,
    "grouping": grouping,
    "grouping_quarter": grouping,
    "grouping_daquar": grouping,
    "features": features,
    "metric": metric,
}


def benchmarks_table(folder: Path) -> str:
    """All figures as one Markdown table, and the machine they were measured on."""
    rows, machines = [], []
    for name, figures in BENCHMARKS.items():
        results = read_json(folder / f"{name}.json")
        if results is None:
            rows.append([f"`{name}`", "", "not measured yet", ""])
            continue
        machines.append(results["environment"])
        for figure in figures(results):
            verdict = {None: "", True: "reached", False: f"not reached: {figure.why_not}"}[figure.reached]
            rows.append([figure.what, figure.to_reach, figure.measured, verdict.removesuffix(": ")])
    table = markdown(["", "to reach", "measured", ""], rows, right=(1, 2))
    missing = "" if (folder / "pair_fusion_cuda.json").exists() else " Not measured on a GPU: none was at hand."
    return f"{table}\n\n{measured_on(machines, 'torch')}{missing}"


def demo_table(results: dict) -> str:
    """What benchmarks/demo_load.py wrote, as a Markdown table with what was measured under it."""
    rows = [
        [step, f"{found['count']}", *(f"{found[name]:.1f}" for name in ("p50", "p95", "most"))]
        for step, found in results["seconds"].items()
    ]
    table = markdown(["seconds until there is the", "times", "p50", "p95", "longest"], rows, right=(1, 2, 3, 4))
    models = " and ".join(f"`{name}`" for name in results["models"])
    return (
        f"{table}\n\n{results['people']} people at once, {results['questions_each']} questions each, of {models}; "
        f"{len(results['errors']) or 'no'} errors. {measured_on([results['environment']])}"
    )


def long_run_table(results: dict) -> str:
    """What benchmarks/long_run.py wrote: what a long training holds after a tenth of its time and at its end."""
    rows = []
    for name, what in (("rss_mb", "memory, MB"), ("files", "open files"), ("threads", "threads")):
        found = results[name]
        values = [found["per_hour"], *found["interval"]]
        change, low, high = (f"{round(value, 1) + 0:+.1f}" for value in values)  # + 0: there is no −0.0 here
        levels = [f"{found[key]:,.0f}" for key in ("first", "last", "most")]
        last_third = [sample[name] for sample in results["course"][-(len(results["course"]) // 3) :]]
        rows.append([what, *levels, f"{change} ({low} … {high})", f"{last_third[-1] - last_third[0]:+.1f}"])
    header = ["", "after the first tenth", "at the end", "at most", "change an hour (95 %)", "in the last third"]
    # The command had another name once: what it was measured on stands behind it.
    what = f"`ume train` {results['what'].replace('`', '').split(' ', 1)[1].removeprefix('train ')}"
    return (
        f"{markdown(header, rows, right=(1, 2, 3, 4, 5))}\n\n{what}: {results['hours']:.1f} hours, "
        f"{results['steps']:,} steps, {results['epochs']:,} evaluations and checkpoints. "
        f"{measured_on([results['environment']], 'torch', 'transformers')}"
    )


def compile_table(results: dict) -> str:
    """What benchmarks/compile.py wrote, as a Markdown table with what was measured under it."""
    parts = {"image_encoder": "image encoder", "question_fusion": "question and fusion"}
    rows = [
        [
            f"{row['shape']}, `{row['fusion']}`: {parts[row['part']]}",
            row["way"],
            f"{1e3 * row['core_seconds']:.0f}",
            f"{row['faster']:.2f}×",
            f"{row['difference']:.0e}" if row["difference"] else "0",
            "" if row["seconds_to_prepare"] is None else f"{row['seconds_to_prepare']:.0f}",
        ]
        for row in results["ways"]
    ]
    header = ["part", "way", "core ms a batch", "times as fast", "output differs by", "seconds to prepare"]
    machine, versions = results["environment"]["hardware"], results["environment"]["versions"]
    return (
        f"{markdown(header, rows, right=(2, 3, 4, 5))}\n\nA batch is {results['questions']} questions about "
        f"{results['images']} images, random weights. Measured on {machine['cpu']}, torch threads: "
        f"{machine['torch_threads']}, torch {versions['torch']}."
    )
