"""What a user of UME imports: `import ume`, then `ume.ask("runs/easy_vqa", "drawing.png", ["what shape is it?"])`.

Each name is imported from its home when it is first asked for: `import ume` loads neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

# A name, and the module that it is imported from. A name that is added here is also imported below, for editors.
HOMES = {
    "AnswerVocabulary": "training_ume.data.answers",
    "FUSIONS": "modeling_ume",
    "FusionHead": "modeling_ume",
    "FusionOutput": "modeling_ume",
    "Run": "ume.runs",
    "Stream": "modeling_ume",
    "UMEConfig": "modeling_ume",
    "UMEForImageTextRetrieval": "modeling_ume",
    "UMEForRetrieval": "modeling_ume",
    "UMEForSequenceClassification": "modeling_ume",
    "UMEForVisualQuestionAnswering": "modeling_ume",
    "UMEModel": "modeling_ume",
    "UMEProcessor": "modeling_ume",
    "UMEVQAPipeline": "modeling_ume",
    "ask": "training_ume.evaluation.asking",
    "evaluate_checkpoint": "training_ume.evaluation.evaluate",
    "explain": "training_ume.explain.explanation",
    "export_onnx": "training_ume.serve.onnx_export",
    "load_checkpoint": "training_ume.evaluation.load",
    "load_rows": "training_ume.data.tables.load",
    "load_run": "ume.runs",
    "load_vqa": "training_ume.data.load",
    "parse_recipe": "configuration_ume.parsing",
    "publish": "training_ume.hub.publish",
    "register_fusion": "modeling_ume",
    "split_by_image": "training_ume.data.splits",
    "train": "ume.runs",
    "train_and_evaluate": "training_ume.training.run",
}

__all__ = [*HOMES]

if TYPE_CHECKING:
    from configuration_ume.parsing import parse_recipe
    from modeling_ume import (
        FUSIONS,
        FusionHead,
        FusionOutput,
        Stream,
        UMEConfig,
        UMEForImageTextRetrieval,
        UMEForRetrieval,
        UMEForSequenceClassification,
        UMEForVisualQuestionAnswering,
        UMEModel,
        UMEProcessor,
        UMEVQAPipeline,
        register_fusion,
    )
    from training_ume.data.answers import AnswerVocabulary
    from training_ume.data.load import load_vqa
    from training_ume.data.splits import split_by_image
    from training_ume.data.tables.load import load_rows
    from training_ume.evaluation.asking import ask
    from training_ume.evaluation.evaluate import evaluate_checkpoint
    from training_ume.evaluation.load import load_checkpoint
    from training_ume.explain.explanation import explain
    from training_ume.hub.publish import publish
    from training_ume.serve.onnx_export import export_onnx
    from training_ume.training.run import train_and_evaluate
    from ume.runs import Run, load_run, train

    __version__: str


def __getattr__(name: str):
    if name == "__version__":
        from importlib import metadata

        value = metadata.version("ume")
    elif name in HOMES:
        value = getattr(importlib.import_module(HOMES[name]), name)
    else:
        known = {home.lower(): home for home in HOMES}
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)
        advice = f": did you mean {known[near[0]]}?" if near and not name.startswith("__") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{advice}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES, "__version__"})
