"""The graphs of an exported folder, opened by onnxruntime."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from modeling_ume import UMEProcessor
from training_ume.records.files import read_json
from training_ume.serve.onnx_graphs import ABOUT, GRAPHS, PRECISIONS


class Sessions:
    """
    Args:
        folder: what `export_onnx` wrote.
        precision (`str`): `"fp32"` or, where it was exported, `"int8"`.

    Raises:
        ImportError: without onnxruntime.
        ValueError: when the folder holds no such export.
    """

    def __init__(self, folder: str | os.PathLike, precision: str = "fp32"):
        if find_spec("onnxruntime") is None:
            raise ImportError("Answering from ONNX graphs needs onnxruntime: `pip install 'ume[export]'`.")
        import onnxruntime

        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is not known: choose from {', '.join(PRECISIONS)}.")
        folder = Path(folder)
        self.about = read_json(folder / ABOUT)
        graphs = (self.about or {}).get("graphs", GRAPHS)
        files = {graph: folder / (graph + PRECISIONS[precision]) for graph in graphs}
        missing = [path.name for path in files.values() if not path.is_file()]
        if self.about is None or missing:
            raise ValueError(
                f"The folder {str(folder)!r} holds no {precision} export (it has no {', '.join(missing) or ABOUT}): "
                f"make one with `ume export{' --int8' if precision == 'int8' else ''}`."
            )
        self.processor = UMEProcessor.from_pretrained(folder)
        providers = [name for name in onnxruntime.get_available_providers() if name.startswith(("CUDA", "CPU"))]
        self._sessions = {
            graph: onnxruntime.InferenceSession(str(path), providers=providers) for graph, path in files.items()
        }
        self._id2label = dict(enumerate(self.about["answers"]))

    def _run(self, graph: str, values: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self._sessions[graph].run(None, {name: values[name] for name in self.about[graph]["inputs"]})
