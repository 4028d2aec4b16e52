"""A model of any modalities as ONNX graphs: one of each encoder, and one of the fusion head; and answering with them.

An encoder's graph reads rows one at a time, so that nothing is ever padded; what lacks goes into the fusion's graph by
`…_present`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.given_ume import by_modality, inputs_of
from modeling_ume.inputs_ume import as_inputs, as_stream
from modeling_ume.modalities_ume import MODALITIES
from modeling_ume.modality_base_ume import Modality
from modeling_ume.padding_ume import join_streams
from modeling_ume.tasks_ume import PROBLEM_TYPES, decode_logits
from training_ume.serve.onnx_graphs import Traced
from training_ume.serve.onnx_sessions import Sessions

FUSION = "fusion"


def encoder_graph(kind: Modality) -> str:
    """The name of an encoder's graph."""
    return f"{kind.name}_encoder"


class EncoderGraph(nn.Module):
    """What one modality's encoder is given → its states [U, N, D], summaries [U, D_p] and mask [U, N]."""

    def __init__(self, model: UMEForVisualQuestionAnswering, kind: Modality, names: list[str]):
        super().__init__()
        self.model, self.kind, self.names = model, kind, names

    def forward(self, *values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stream = self.model.ume.encode(self.kind.name, **dict(zip(self.names, values, strict=True)))
        return stream.states, stream.pooled, stream.mask.long()


class FusionGraph(nn.Module):
    """States, summaries, masks and presence of B rows → logits [B, C].

    Args:
        grids: height and width of the grid that the last tokens of a modality form, by the name of that input.
        names: of the inputs, in the order in which `forward` gets them.
    """

    def __init__(self, model: UMEForVisualQuestionAnswering, grids: dict[str, tuple[int, int]], names: list[str]):
        super().__init__()
        self.model, self.grids, self.names = model, grids, names

    def forward(self, *values: Tensor) -> Tensor:
        grids = {name: torch.tensor(grid) for name, grid in self.grids.items()}
        return self.model(**dict(zip(self.names, values, strict=True)), **grids).logits


def graph_inputs(
    kind: Modality, names: Sequence[str], part, cell: Any, length: int | None = None, multiple: int = 1
) -> dict[str, Tensor]:
    """
    What the graph of an encoder is given of one row.

    Args:
        names: of the graph's inputs.
        length: the second size of these, where it is fixed; None where it is open.
        multiple: see `Traced`.

    Raises:
        ValueError: for a row that is longer than the graph reads.
    """
    found = kind.process(part, [kind.open(cell)])
    main = next(found[name] for name in names if name in found)
    given = {name: found.get(name, torch.ones(main.shape[:2], dtype=torch.long)) for name in names}
    size = main.shape[1] if main.ndim > 1 else None
    if length is None and multiple > 1:
        length = multiple * max(2, -(-size // multiple))
    if length is None or size == length:
        return given
    if size > length:
        raise ValueError(
            f"The {kind.noun} has {size} steps, and the graph reads {length}: cut it, or answer with the model itself."
        )
    return {
        name: torch.cat([value, value.new_zeros(len(value), length - size, *value.shape[2:])], dim=1)
        for name, value in given.items()
    }


def trace_any(model: UMEForVisualQuestionAnswering, processor: UMEProcessor) -> dict[str, Traced]:
    """
    The parts of a model on made-up examples, ready for `torch.export` or ONNX, by the names of their graphs.

    Args:
        model: on the CPU, in float32 and eval mode.
        processor: its processor.

    Raises:
        ValueError: for a head that reads words within the text encoder.
    """
    config, found, fused, sizes, grids = model.config, {}, {}, {}, {}
    if model.ume.fusion.reads_in_encoder:
        raise ValueError(
            f"fusion={config.fusion!r} reads all modalities within the text encoder, so that there is no graph of "
            "each encoder: a model of text and images with it can be exported, one of other modalities cannot."
        )
    rows = torch.export.Dim("rows")
    for name in config.modalities:
        kind, own = MODALITIES[name], getattr(config, f"{name}_config")
        part = processor.part(kind)
        of_inputs = kind.graph_sizes(own)
        multiple = max([size.multiple for sizes_of in of_inputs.values() for size in sizes_of.values()], default=1)
        length = getattr(own, "context_length", None)
        given = graph_inputs(kind, list(of_inputs), part, kind.made_up(own, part), length, multiple)
        given = {key: torch.cat([value, value]) for key, value in given.items()}
        dims, dynamic = {}, {}
        for key, of_input in of_inputs.items():
            named = {axis: dims.setdefault(size, _dim(kind, size)) for axis, size in of_input.items()}
            dynamic[key] = {0: rows, **named}
        module = EncoderGraph(model, kind, list(given))
        outputs = [kind.states, kind.pooled, kind.mask]
        what = f"The {kind.called} encoder {own.model_type!r}"
        found[encoder_graph(kind)] = Traced(module, given, outputs, dynamic, what, multiple)
        with torch.no_grad():
            stream = model.ume.encode(name, **given)
        if stream.grid is not None:
            grids[kind.grid] = stream.grid
        fused |= dict(zip(outputs, (stream.states, stream.pooled, stream.mask.long()), strict=True))
        fused[kind.present] = torch.tensor([True, True])
        tokens = {1: torch.export.Dim(f"{name}_tokens", min=2)} if dims else {}
        sizes |= {kind.states: {0: rows, **tokens}, kind.pooled: {0: rows}, kind.mask: {0: rows, **tokens}}
        sizes[kind.present] = {0: rows}
    head = FusionGraph(model, grids, list(fused))
    found[FUSION] = Traced(head, fused, ["logits"], sizes, f"The head fusion={config.fusion!r}")
    return found


def _dim(kind: Modality, size):
    if size.multiple == 1:
        return torch.export.Dim(f"{kind.name}_{size.name}", min=size.least)
    return size.multiple * torch.export.Dim(f"{kind.name}_{size.name}_by_{size.multiple}", min=2)


class OnnxModel(Sessions):
    r"""
    Answers from an exported folder of a model of any modalities with onnxruntime; the model's own code is not run.

    Args:
        folder: what `export_onnx` wrote.
        precision (`str`): `"fp32"` or, where it was exported, `"int8"`.

    Raises:
        ImportError: without onnxruntime.
        ValueError: when the folder holds no such export.

    Example:

    ```python
    >>> ask = OnnxModel("exported")
    >>> ask(image="1.jpg", table={"bedrooms": 3, "area": 120.0})
    [{'answer': 412000.0, 'name': 'price'}]
    ```"""

    def __init__(self, folder: str | os.PathLike, precision: str = "fp32"):
        super().__init__(folder, precision)
        self.modalities = list(self.about["modalities"])

    def encode(self, modality: str, cell: Any) -> dict[str, np.ndarray]:
        """What an encoder says of one thing: states [1, N, D], summary [1, D_p] and mask [1, N], by their names.

        Raises:
            ValueError: when it cannot be read.
        """
        kind = MODALITIES[modality]
        graph = encoder_graph(kind)
        shapes = self.about[graph]["inputs"]
        length = next(iter(shapes.values()))[1]
        length = length if isinstance(length, int) else None
        multiple = self.about["multiples"][graph]
        given = graph_inputs(kind, list(shapes), self.processor.part(kind), cell, length, multiple)
        values = self._run(graph, {name: value.numpy() for name, value in given.items()})
        return dict(zip(self.about[graph]["outputs"], values, strict=True))

    def logits(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Rows, by the keys of their modalities, any of which may lack → logits [B, C]."""
        inputs, count = {}, len(rows)
        for name in self.modalities:
            kind = MODALITIES[name]
            here = [self.encode(name, row[name]) if name in row else None for row in rows]
            there = [as_stream(kind, _tensors(found)) for found in here if found is not None]
            if there:
                found = {key: value.numpy() for key, value in as_inputs(join_streams(there)).items()}
            else:
                shapes = self.about[FUSION]["inputs"]
                found = {key: np.zeros([size if isinstance(size, int) else 2 for size in shapes[key]], np.float32)[:1]
                         for key in (kind.states, kind.pooled, kind.mask)}  # fmt: skip
            places = np.zeros(count, np.int64)
            places[[i for i, one in enumerate(here) if one is not None]] = np.arange(len(there))
            for key in (kind.states, kind.pooled, kind.mask):
                inputs[key] = found[key][places]
            inputs[kind.mask] = inputs[kind.mask].astype(np.int64)
            inputs[kind.present] = np.array([one is not None for one in here])
            if inputs[kind.mask].shape[1] < 2 and not isinstance(self.about[FUSION]["inputs"][kind.mask][1], int):
                room = [(0, 0), (0, 1)]  # a graph whose length is open has two places or more
                inputs[kind.mask] = np.pad(inputs[kind.mask], room)
                inputs[kind.states] = np.pad(inputs[kind.states], [*room, (0, 0)])
        return self._run(FUSION, inputs)[0]

    def __call__(self, top_k: int = 5, **parts) -> list[dict]:
        """
        Args:
            top_k: how many answers; all of them if the model knows fewer.
            parts: what there is of each modality, by its name; any may be left out.

        Returns:
            A list of `{"answer": str, "score": probability}`, the best first; of numbers `{"answer", "name"}`.

        Raises:
            ValueError: when something cannot be read, or the model does not read it.
        """
        logits = self.logits([by_modality(parts, self.modalities)])
        top_k = min(top_k, len(self._id2label))
        return decode_logits(torch.from_numpy(logits), self._id2label, self.about["problem_type"], top_k)[0]

    def predict_logits(self, dataset: Dataset, batch_size: int = 64) -> np.ndarray:
        """Logits [rows, C] of rows of `load_rows`."""
        found = [
            self.logits([by_modality(row, self.modalities, others=True) for row in rows])
            for start in range(0, len(dataset), batch_size)
            if (rows := list(dataset.select(range(start, min(start + batch_size, len(dataset))))))
        ]
        return np.concatenate(found)


def _tensors(found: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in found.items()}


def measure_any(model: UMEForVisualQuestionAnswering, processor: UMEProcessor, graphs: OnnxModel) -> dict:
    """
    The greatest difference between a model and its graphs, of made-up rows of different sizes, together and of one row
    that lacks what others have.

    Returns:
        `dict`: `logits` (greatest absolute difference) and `largest_logit`, to judge it by.
    """
    own = list(model.config.modalities)
    kinds = [MODALITIES[name] for name in own]
    made = [
        {kind.name: kind.made_up(getattr(model.config, kind.config_field), processor.part(kind), number)
         for kind in kinds}
        for number in range(3)
    ]  # fmt: skip
    batches = [made, made[1:2], *([{name: made[2][name]}] for name in own)]
    worst, largest = [], 0.0
    for rows in batches:
        with torch.no_grad():
            logits = model(**inputs_of(processor, rows, own)).logits.numpy()
        # Numbers are in their unit: what differs is a part of them.
        size = 1.0 if PROBLEM_TYPES[model.config.problem_type].chooses else max(1.0, np.abs(logits).max())
        worst.append(np.abs(graphs.logits(rows) - logits).max() / size)
        largest = max(largest, float(np.abs(logits).max()))
    # np.max, unlike max, lets no NaN get lost.
    return {"logits": float(np.max(worst)), "largest_logit": largest}
