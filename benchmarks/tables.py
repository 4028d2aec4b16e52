#!/usr/bin/env python
"""Time and peak memory of `load_rows` on a large parquet file that it writes first.

python benchmarks/tables.py --rows 10000000 --output results/tables.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image

PICTURES, ANSWERS, BATCH = 1000, 3000, 100_000


def write(folder: Path, rows: int) -> Path:
    """A table with ids, names of pictures, questions, answers and a patient, and its pictures."""
    for number in range(PICTURES):
        Image.new("RGB", (4, 4), (number % 256, number // 256, 0)).save(folder / f"{number}.png")
    kinds = {
        "id": pa.int64(),
        "image": pa.string(),
        "question": pa.string(),
        "answer": pa.string(),
        "patient": pa.int64(),
    }
    with parquet.ParquetWriter(folder / "rows.parquet", pa.schema(kinds)) as writer:
        for start in range(0, rows, BATCH):
            ids = range(start, min(start + BATCH, rows))
            columns = {
                "id": list(ids),
                "image": [f"{i * 7919 % PICTURES}.png" for i in ids],
                "question": [f"how many of the things that are called {i % 99_991} are there?" for i in ids],
                "answer": [f"answer {i * i % ANSWERS}" for i in ids],
                "patient": [i // 100 for i in ids],
            }
            writer.write_table(pa.table(columns, schema=pa.schema(kinds)))
    return folder / "rows.parquet"


def load(path: str, cache: str) -> dict:
    """Loads the table in this process; what it took."""
    from training_ume.data.tables.load import load_rows

    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # noqa: E731
    before, start = peak(), time.perf_counter()
    rows = load_rows(path, cache_dir=cache)
    seconds = time.perf_counter() - start
    last = rows[len(rows) - 1]
    return {
        "rows": len(rows),
        "seconds": seconds,
        "mb_before": before,
        "mb_peak": peak(),
        "last_id": last["question_id"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)  # a process of its own, whose peak is the table's
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(*args.load)))
        return
    results = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder), rows)
            command = [sys.executable, __file__, "--load", str(path), os.path.join(folder, "cache")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append({**json.loads(done.stdout.splitlines()[-1]), "file_mb": path.stat().st_size / 2**20})
            print(json.dumps(results[-1]))
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
