"""Time of the VQA accuracy metric on one core, through the public `compute()`.

python benchmarks/metric.py
python benchmarks/metric.py --annotations train_annotations.json.gz --scores train_official_scores.json.gz
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before Arrow and NumPy start their threads

import evaluate
import pyarrow

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from metrics.vqa_accuracy.vqa_accuracy import normalize_answer  # noqa: E402
from training_ume.records.files import write_json  # noqa: E402
from training_ume.records.machine import environment  # noqa: E402

REFERENCE_QUESTIONS = 5000


def generated(questions: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Questions with ten answers as varied as VQA v2's: a third all alike, few frequent words, many rare ones."""
    rng = random.Random(seed)
    frequent = ["yes", "no", "1", "2", "white", "red", "blue", "tennis", "left", "man", "dog", "pizza"]
    endings = ["", "", "", ".", "s", " the", "-ish", ", maybe"]
    rare = [f"{rng.choice(frequent)} {n}{rng.choice(endings)}" for n in range(150_000)]
    predictions, references = [], []
    for _ in range(questions):
        main = rng.choice(frequent) if rng.random() < 0.6 else rng.choice(rare)
        same = 10 if rng.random() < 0.35 else rng.randint(2, 9)
        answers = [main] * same + rng.choices(rare, k=10 - same)
        rng.shuffle(answers)
        references.append(answers)
        predictions.append(rng.choice(answers))
    return predictions, references


def from_files(annotations: Path, scores: Path) -> tuple[list[str], list[list[str]], list[float]]:
    """Predictions, answers and official scores. `scores` holds {"results": [{question_id, answer, accuracy}, ...]}."""
    answers = {
        row["question_id"]: [answer["answer"] for answer in row["answers"]]
        for row in read_json(annotations)["annotations"]
    }
    results = read_json(scores)["results"]
    references = [answers[row["question_id"]] for row in results]
    return [row["answer"] for row in results], references, [row["accuracy"] for row in results]


def read_json(path: Path):
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        return json.load(file)


def plain(predictions: list[str], references: list[list[str]]) -> list[float]:
    """The formula word for word, nothing remembered: the reference that the speed-up is measured against."""
    normalize = normalize_answer.__wrapped__
    scores = []
    for prediction, answers in zip(predictions, references, strict=True):
        prediction, *answers = (text.replace("\n", " ").replace("\t", " ").strip() for text in (prediction, *answers))
        if len(set(answers)) > 1:
            prediction, answers = normalize(prediction), [normalize(answer) for answer in answers]
        total = 0.0
        for i in range(len(answers)):
            total += min(1, sum(answer == prediction for j, answer in enumerate(answers) if j != i) / 3)
        scores.append(100 * total / len(answers))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=214_354, help="how many questions to make up (VQA v2's val)")
    parser.add_argument("--annotations", type=Path, help="time real answers instead: a VQA v2 annotations .json[.gz]")
    parser.add_argument("--scores", type=Path, help="with --annotations: predictions and their official scores")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/metric.json", help="JSON file")
    args = parser.parse_args()
    if (args.annotations is None) != (args.scores is None):
        parser.error("--annotations and --scores belong together: give both, or neither for made-up questions.")

    if hasattr(os, "sched_setaffinity"):  # Linux only
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)

    official = None
    if args.annotations is None:
        predictions, references = generated(args.questions)
    else:
        predictions, references, official = from_files(args.annotations, args.scores)
    metric = evaluate.load(str(ROOT / "metrics" / "vqa_accuracy"))

    wall, cpu = time.perf_counter(), time.process_time()
    result = metric.compute(predictions=predictions, references=references, per_question=True)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu

    few = min(REFERENCE_QUESTIONS, len(predictions))
    start = time.process_time()
    expected = plain(predictions[:few], references[:few])
    plain_cpu = time.process_time() - start
    if any(abs(a - b) > 1e-9 for a, b in zip(expected, result["per_question"][:few], strict=True)):
        sys.exit("The metric and the plain formula disagree on these questions.")

    report = {
        "benchmark": "metric",
        "questions": len(predictions),
        "answers": sum(map(len, references)),
        "vqa_accuracy": result["vqa_accuracy"],
        "wall_seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "questions_per_cpu_second": round(len(predictions) / cpu),
        "plain_cpu_seconds_for_as_many": round(plain_cpu * len(predictions) / few, 3),
        "speedup_over_plain": round(plain_cpu / few * len(predictions) / cpu, 2),
    }
    if official is not None:
        rounded = (round(score, 2) for score in result["per_question"])
        report["equal_to_official"] = sum(a == b for a, b in zip(rounded, official, strict=True))
    print(json.dumps(report, indent=2))
    write_json(args.output, {**report, "environment": environment()})


if __name__ == "__main__":
    main()
