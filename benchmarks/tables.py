#!/usr/bin/env python
"""Time and peak memory of `load_rows` on a large parquet file that it writes first.

Mapped files are counted apart from the memory that is the process's own: the system takes their pages back at will.

python benchmarks/tables.py --rows 10000000 --output results/tables.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
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


def memory() -> dict[str, float]:
    """MB of this process: its own, and of mapped files (Linux)."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    own, files = (int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1024 for name in ("RssAnon", "RssFile"))
    return {"own_mb": own, "mapped_mb": files}


def load(path: str, cache: str) -> dict:
    """Loads the table in this process; what it took."""
    from training_ume.data.tables.load import load_rows

    before, peak, done = memory(), {}, threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak.update({key: max(peak.get(key, 0), value) for key, value in memory().items()})

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu = time.perf_counter(), time.process_time()
    rows = load_rows(path, cache_dir=cache)
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    done.set()
    watcher.join()
    return {"rows": len(rows), **took, "before": before, "peak": peak, "last_id": rows[len(rows) - 1]["question_id"]}


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
