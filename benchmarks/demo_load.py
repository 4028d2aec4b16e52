"""The page of `ume demo` with several people on it at once: how long an answer and its reasons take, and what fails.

python benchmarks/demo_load.py runs/easy_vqa
python benchmarks/demo_load.py runs/easy_vqa runs/concat --people 8 --questions 5

Each person uploads a picture of their own and asks one question after the other without a pause, through the page's
own API; the page runs in a process of its own, on this machine only.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training_ume.records.files import write_json  # noqa: E402
from training_ume.records.machine import environment  # noqa: E402

QUESTIONS = (
    "what shape is in the image?",
    "what color is the shape?",
    "is there a circle?",
    "does the image contain a triangle?",
    "is a blue shape present?",
)
PICTURE = (640, 480)  # pixels


def start_page(models: list[str]) -> tuple[subprocess.Popen, str]:
    """The page's process and address; SystemExit with its message where it does not start."""
    page = subprocess.Popen(
        [sys.executable, "-m", "training_ume.commands", "demo", *models],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in page.stdout:
        if line.startswith("The page is at "):
            # Whatever it writes later must not fill the pipe.
            threading.Thread(target=page.stderr.read, daemon=True).start()
            return page, line.split()[4]
    raise SystemExit(page.stderr.read().strip().splitlines()[-1])


def made_up_picture(path: Path, seed: int) -> Path:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(coarse).resize(PICTURE, Image.Resampling.BICUBIC).save(path, quality=90)
    return path


class Person(threading.Thread):
    """Somebody who comes with a picture and asks; keeps the seconds of each step and what went wrong."""

    def __init__(self, address: str, host: str, picture: Path, questions: list[str], gate: threading.Barrier):
        super().__init__()
        self.address, self.host, self.picture, self.questions, self.gate = address, host, picture, questions, gate
        self.seconds, self.errors = defaultdict(list), []

    def run(self) -> None:
        # The page counts the calls of each address.
        client = Client(self.address, verbose=False, headers={"X-Forwarded-For": self.host})
        self.gate.wait()
        try:
            begin = time.perf_counter()
            client.predict(handle_file(self.picture), api_name="/pick")
            self.seconds["picture"].append(time.perf_counter() - begin)
            for question in self.questions:
                begin = time.perf_counter()
                html, *_ = client.predict(question, api_name="/ask")
                self.seconds["answer"].append(time.perf_counter() - begin)
                html = client.predict(api_name="/why")
                self.seconds["answer and reasons"].append(time.perf_counter() - begin)
                if "<figure>" not in str(html):
                    raise ValueError("the page gave no reasons")
        except Exception as error:  # whatever it is, it is what a person would have met
            self.errors.append(f"{type(error).__name__}: {error}")


def quantiles(seconds: list[float]) -> dict:
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {"count": len(seconds), "p50": cuts[9], "p95": cuts[18], "most": max(seconds)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="model", help="one model, or two side by side")
    parser.add_argument("--people", type=int, default=8, help="at once (default: 8)")
    parser.add_argument("--questions", type=int, default=5, help="that each of them asks (default: 5)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "demo.json")
    args = parser.parse_args()
    page, address = start_page(args.models)
    try:
        with tempfile.TemporaryDirectory() as folder:
            gate = threading.Barrier(args.people)
            people = [
                Person(
                    address,
                    f"10.0.0.{seed + 1}",
                    made_up_picture(Path(folder) / f"{seed}.jpg", seed),
                    random.Random(seed).choices(QUESTIONS, k=args.questions),
                    gate,
                )
                for seed in range(args.people)
            ]
            begin = time.perf_counter()
            for person in people:
                person.start()
            for person in people:
                person.join()
            wall = time.perf_counter() - begin
    finally:
        page.terminate()
        page.wait()
    steps = {
        step: quantiles([second for person in people for second in person.seconds[step]])
        for step in ("picture", "answer", "answer and reasons")
        if sum(len(person.seconds[step]) for person in people) > 1
    }
    errors = [error for person in people for error in person.errors]
    results = {
        "people": args.people,
        "questions_each": args.questions,
        "models": [Path(name).name for name in args.models],
        "picture": list(PICTURE),
        "wall_seconds": wall,
        "seconds": steps,
        "errors": errors,
        "environment": environment(),
    }
    write_json(args.out, results)
    for step, found in steps.items():
        print(f"{step:<20} p50 {found['p50']:6.2f} s   p95 {found['p95']:6.2f} s   ({found['count']})")
    print(f"errors: {len(errors)}" + "".join(f"\n  {error}" for error in errors))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
