"""Pair fusion: time and memory of the memory-linear sum against the formula written out, in the same run.

python benchmarks/pair_fusion.py                    # writes benchmarks/results/pair_fusion_cpu.json and a plot
python benchmarks/pair_fusion.py --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modeling_ume.fusion_pairs_ume import VectorCombination  # noqa: E402
from modeling_ume.pairs_ume import weighted_pair_sum  # noqa: E402
from training_ume.records.files import write_json  # noqa: E402
from training_ume.records.machine import environment  # noqa: E402

FIRST = 32  # question tokens
SECONDS = (49, 197, 577, 1025)  # image tokens: 7×7, and 14×14, 24×24, 32×32 patches with a class token
WIDTHS = (256, 768)
BATCHES = (8, 32)
# The references are timed on as many examples as fit into this many bytes of pairs and scaled up: they are linear in
# the batch, and the whole batch would not fit into the memory of a small machine.
REFERENCE_BYTES = {"cpu": 250e6, "cuda": 20e9}


def softmax_sum(pairs: Tensor, scorer: Tensor, first_mask: Tensor, second_mask: Tensor) -> Tensor:
    scores = pairs @ scorer[0]
    mask = first_mask[:, :, None] & second_mask[:, None]
    alpha = scores.masked_fill(~mask, -torch.inf).flatten(1).softmax(-1)
    return torch.einsum("bn,bnd->bd", alpha, pairs.flatten(1, 2))


def literal(combination, first, second, scorer, *masks) -> Tensor:
    """(a): the concatenation of 4D numbers a pair, multiplied by W [D, 4D]."""
    weight = torch.cat([combination.weight, torch.diag(combination.product_weight)], dim=1)
    i, j = torch.broadcast_tensors(first[:, :, None], second[:, None])
    pairs = torch.tanh(torch.cat([i, j, i - j, i * j], dim=-1) @ weight.t())
    return softmax_sum(pairs, scorer, *masks)


def materialised(combination, first, second, scorer, *masks) -> Tensor:
    """(b): decomposed, but every pair held."""
    a, b, g = combination(first, second)
    pairs = torch.tanh(a[:, :, None] + b[:, None] + g[:, :, None] * second[:, None])
    return softmax_sum(pairs, scorer, *masks)


def linear(combination, first, second, scorer, *masks) -> Tensor:
    """What `ume` does."""
    a, b, g = combination(first, second)
    return weighted_pair_sum(a, b, g, second, scorer, *masks)[0][:, 0]


FORMS = {"literal": literal, "materialised": materialised, "linear": linear}


def inputs(batch: int, num_second: int, width: int, device: str, dtype: torch.dtype) -> list:
    generator = torch.Generator().manual_seed(0)
    combination = VectorCombination(width)
    combination.init_weights()

    def normed(num_tokens: int) -> Tensor:
        tokens = F.layer_norm(torch.randn(batch, num_tokens, width, generator=generator), (width,))
        return tokens.to(device, dtype).requires_grad_()

    scorer = (torch.randn(1, width, generator=generator) / width**0.5).to(device, dtype).requires_grad_()
    masks = [torch.ones(batch, n, dtype=torch.bool, device=device) for n in (FIRST, num_second)]
    masks[0][:, FIRST // 2 :] = torch.arange(batch, device=device)[:, None] % 2 == 0  # half of the questions are short
    return [combination.to(device, dtype), normed(FIRST), normed(num_second), scorer, *masks]


def step(form, arguments: list) -> None:
    combination, first, second, scorer, *_ = arguments
    for tensor in (*combination.parameters(), first, second, scorer):
        tensor.grad = None
    form(*arguments).float().square().sum().backward()


def seconds(form, arguments: list, device: str, repeats: int) -> float:
    """Best of `repeats` steps or more, forward and backward, after one that warms up: other work only adds."""
    times, spent = [], 0.0
    while len(times) <= repeats or spent < 0.5:  # a short step is repeated more often, or one interruption would show
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        step(form, arguments)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
        spent += times[-1]
    return min(times[1:])


def _peak(name: str, shape: tuple, device: str, dtype: torch.dtype, threads: int, queue) -> None:
    torch.set_num_threads(threads)
    arguments = inputs(*shape, device, dtype)
    step(FORMS[name], [arguments[0], *(x[:1] for x in arguments[1:3]), arguments[3], *(x[:1] for x in arguments[4:])])
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(FORMS[name], arguments)
        queue.put(torch.cuda.max_memory_allocated() - before)
        return
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    before = _status("VmRSS")
    step(FORMS[name], arguments)
    queue.put(_status("VmHWM") - before)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no line {field}: peak memory on a CPU is measured under Linux only.")


def peak_bytes(name: str, shape: tuple, device: str, dtype: torch.dtype) -> int:
    """Memory that one step needs at its peak beyond its inputs, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(name, shape, device, dtype, torch.get_num_threads(), queue))
    process.start()
    peak = queue.get(timeout=600)
    process.join()
    return peak


def least_squares(columns: list[list[float]], values: list[float]) -> tuple[list[float], float]:
    """Coefficients of the columns and R², each row weighted by 1 / value so that small shapes count as large ones."""
    x, y = torch.tensor(columns, dtype=torch.float64).t(), torch.tensor(values, dtype=torch.float64)
    weighted = torch.linalg.lstsq(x / y[:, None], torch.ones_like(y)[:, None]).solution[:, 0]
    residual, spread = (y - x @ weighted).square().sum(), (y - y.mean()).square().sum()
    return weighted.tolist(), float(1 - residual / spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5, help="steps of which the best counts (references: 2)")
    parser.add_argument("--output", type=Path, help="JSON file; a .png of the same name is drawn beside it")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    output = args.output or ROOT / f"benchmarks/results/pair_fusion_{args.device}.json"

    rows = []
    for width in WIDTHS:
        for num_second in SECONDS:
            for batch in BATCHES:
                row = {"batch": batch, "first": FIRST, "second": num_second, "width": width}
                pair_bytes = FIRST * num_second * width * dtype.itemsize
                for name, form in FORMS.items():
                    examples = batch
                    if name != "linear":
                        held = pair_bytes * (5 if name == "literal" else 1)
                        examples = min(batch, max(1, int(REFERENCE_BYTES[args.device] // held)))
                    arguments = inputs(examples, num_second, width, args.device, dtype)
                    repeats = args.repeats if name == "linear" else 2
                    row[f"{name}_seconds"] = seconds(form, arguments, args.device, repeats) * batch / examples
                    if examples != batch:
                        row[f"{name}_timed_on"] = examples
                    del arguments
                    gc.collect()
                for name in ("literal", "materialised"):
                    row[f"faster_than_{name}"] = row[f"{name}_seconds"] / row["linear_seconds"]
                rows.append(row)
                print(
                    f"B={batch:3} N2={num_second:5} D={width:4}  {row['linear_seconds']:8.4f} s  "
                    f"{row['faster_than_literal']:7.1f}x written out  {row['faster_than_materialised']:5.2f}x held",
                    flush=True,
                )

    memory = []
    for width in WIDTHS:
        for num_second in SECONDS:
            shape = (8, num_second, width)
            row = {"batch": 8, "first": FIRST, "second": num_second, "width": width}
            for name in ("linear", "materialised"):
                row[f"{name}_bytes"] = peak_bytes(name, shape, args.device, dtype)
            row["share"] = row["linear_bytes"] / row["materialised_bytes"]
            memory.append(row)
            print(
                f"B=8 N2={num_second:5} D={width:4}  peak {row['linear_bytes'] / 2**20:8.1f} MiB, materialised "
                f"{row['materialised_bytes'] / 2**20:8.1f} MiB: 1/{1 / row['share']:.1f}",
                flush=True,
            )

    pairs = [[float(math.prod((r["batch"], FIRST, r["second"], r["width"]))) for r in rows], [1.0] * len(rows)]
    (per_element, per_call), time_r2 = least_squares(pairs, [r["linear_seconds"] for r in rows])
    tokens = [8.0 * (FIRST + r["second"]) * r["width"] for r in memory]
    scores = [8.0 * FIRST * r["second"] for r in memory]
    coefficients, memory_r2 = least_squares(
        [tokens, scores, [1.0] * len(memory)], [float(r["linear_bytes"]) for r in memory]
    )
    target = next(r for r in memory if r["second"] == 577 and r["width"] == 768)
    summary = {
        "faster_than_literal": {"least": min(r["faster_than_literal"] for r in rows), "to_reach": 15},
        "faster_than_materialised": {"least": min(r["faster_than_materialised"] for r in rows), "to_reach": 1.5},
        "peak_memory_share_at_577_768": {"value": target["share"], "to_reach": 1 / 20},
        "time_fit": {"nanoseconds_per_pair_element": per_element * 1e9, "seconds_per_call": per_call, "r2": time_r2},
        "memory_fit": {
            "bytes_per_token_element": coefficients[0],
            "bytes_per_pair": coefficients[1],
            "bytes_fixed": coefficients[2],
            "r2": memory_r2,
        },
    }
    for name in ("faster_than_literal", "faster_than_materialised"):
        summary[name]["median"] = statistics.median(r[name] for r in rows)
    report = {
        "benchmark": "pair_fusion",
        "device": args.device,
        "dtype": args.dtype,
        "load_average_before": os.getloadavg()[0],
        "summary": summary,
        "time": rows,
        "memory": memory,
        "environment": environment(),
    }
    write_json(output, report)
    plot(report, output.with_suffix(".png"))
    print(f"Written: {output} and the plot beside it.")


def plot(report: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    colours = {"literal": "#b0b0b0", "materialised": "#5b8dbd", "linear": "#d1603d"}
    labels = {"literal": "formula written out", "materialised": "decomposed, all pairs held", "linear": "tiled (ume)"}
    rows = [r for r in report["time"] if r["batch"] == 8 and r["width"] == 768]
    for name, colour in colours.items():
        left.plot(
            [r["second"] for r in rows], [r[f"{name}_seconds"] for r in rows], "o-", c=colour, label=labels[name]
        )
    left.set(xscale="log", yscale="log", xlabel="image tokens", ylabel="seconds, forward + backward")
    left.set_title(f"Time, batch 8, 32 question tokens, D = 768 ({report['device']})", fontsize=10)
    rows = [r for r in report["memory"] if r["width"] == 768]
    for name in ("materialised", "linear"):
        right.plot(
            [r["second"] for r in rows],
            [r[f"{name}_bytes"] / 2**20 for r in rows],
            "o-",
            c=colours[name],
            label=labels[name],
        )
    right.set(xscale="log", yscale="log", xlabel="image tokens", ylabel="peak extra memory, MiB")
    right.set_title("Memory, the same shapes", fontsize=10)
    for axis in (left, right):
        axis.set_xticks(list(SECONDS), [str(n) for n in SECONDS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
