"""Hours of one training, watched from outside: does its memory stay flat, and do its files and threads stay closed?

python benchmarks/long_run.py                 # two hours of `ume train easy_vqa`, then Ctrl-C, as a user would
python benchmarks/long_run.py --minutes 10    # a trial

Each epoch evaluates and writes a checkpoint, so hundreds of both are in it. Samples are kept while it runs.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training_ume.records.files import write_json  # noqa: E402
from training_ume.records.machine import environment  # noqa: E402

WARM_UP = 0.1  # of the samples: caches fill, the allocator finds its level
QUESTIONS = 5000


def sample(pid: int) -> dict[str, float]:
    """Memory in MB, open files and threads of a process (Linux)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status["Threads"]),
    }


def slope(samples: list[dict], name: str) -> dict[str, float]:
    """
    Change an hour by least squares, with its 95 % interval.

    Samples in a row are alike, so the interval is that of the slope through the means of ten stretches of time.
    """
    size = max(1, len(samples) // 10)
    parts = [samples[i : i + size] for i in range(0, len(samples) - size + 1, size)]
    hours = [statistics.mean(s["seconds"] for s in part) / 3600 for part in parts]
    values = [statistics.mean(s[name] for s in part) for part in parts]
    middle, level = statistics.mean(hours), statistics.mean(values)
    spread = sum((hour - middle) ** 2 for hour in hours)
    per_hour = sum((hour - middle) * (value - level) for hour, value in zip(hours, values, strict=True)) / spread
    residuals = [value - level - per_hour * (hour - middle) for hour, value in zip(hours, values, strict=True)]
    error = (sum(r * r for r in residuals) / (len(parts) - 2) / spread) ** 0.5
    student = 2.31  # 97.5 % of Student's t with 8 degrees of freedom
    return {"per_hour": per_hour, "interval": [per_hour - student * error, per_hour + student * error]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--every", type=float, default=10, help="seconds between samples")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "long_run.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        command = [
            sys.executable, "-m", "training_ume.commands", "train", "easy_vqa", "--output_dir", str(runs),
            "--max_train_questions", str(QUESTIONS), "--num_train_epochs", "100000", "--lr_scheduler_type", "constant",
            "--save_total_limit", "2", "--disable_tqdm", "true",
        ]  # fmt: skip
        log = (Path(folder) / "log").open("wb")
        training = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A shell that put this into the background has it, and all that it starts, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started, samples = time.monotonic(), []
        try:
            while time.monotonic() - started < 60 * args.minutes:
                time.sleep(args.every)
                if training.poll() is not None:
                    log.close()
                    print((Path(folder) / "log").read_text()[-3000:], file=sys.stderr)
                    print(f"error: The training ended by itself with code {training.returncode}.", file=sys.stderr)
                    return 1
                samples.append({"seconds": time.monotonic() - started, **sample(training.pid)})
                if len(samples) % 30 == 0:
                    write_json(args.output.with_suffix(".samples.json"), samples)
        except KeyboardInterrupt:
            print("Interrupted: what was measured until now is summed up.", file=sys.stderr)
        training.send_signal(signal.SIGINT)
        training.wait(timeout=300)
        log.close()
        states = sorted(runs.glob("**/checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
        state = json.loads(states[-1].read_text())
    kept = samples[int(WARM_UP * len(samples)) :]
    if len(kept) < 30:
        print(f"error: {len(kept)} samples say nothing: let it run for longer, or give a smaller --every.")
        return 2
    report = {
        "benchmark": "long_run",
        "what": f"`ume train easy_vqa`, {QUESTIONS:,} questions",
        "hours": samples[-1]["seconds"] / 3600,
        "steps": state["global_step"],
        "epochs": round(state["epoch"]),
        "samples": len(kept),
        "ended_after_ctrl_c_with": training.returncode,
        **{
            name: {"first": kept[0][name], "last": kept[-1][name], "most": max(s[name] for s in kept)}
            | slope(kept, name)
            for name in ("rss_mb", "files", "threads")
        },
        "course": [
            {name: round(value, 1) for name, value in s.items()} for s in samples[:: max(1, len(samples) // 60)]
        ],
        "environment": environment(),
    }
    write_json(args.output, report)
    args.output.with_suffix(".samples.json").unlink(missing_ok=True)
    for name, unit in (("rss_mb", "MB"), ("files", "files"), ("threads", "threads")):
        low, high = report[name]["interval"]
        print(f"{name}: {report[name]['per_hour']:+.2f} {unit} an hour (95 %: {low:+.2f} … {high:+.2f})")
    print(f"Written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
