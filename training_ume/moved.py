"""Where the modules of one flat folder are now: `from training_ume.run import build_model` goes on working.

A module that is no longer there is made when it is asked for and looks each name up in the modules that its parts went
to; a package that took over its name does the same for names that it does not have itself.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Old module: the modules that have its definitions now, of this package unless a slash says otherwise.
MOVED = {
    "ablations": "evidence.ablations report.ablations",
    "answers": "data.answers",
    "arena": "evidence.arena evidence.contenders evidence.statistics",
    "arena_report": "report.arena",
    "attribution": "explain.attribution",
    "averaging": "training.averaging",
    "benchmark_tables": "report.benchmarks",
    "card": "hub.sections hub.data_sets hub.read report.markdown hub.card",
    "challenge": "evaluation.challenge",
    "collator": "data.collator",
    "console": "report.console",
    "data": "data.load data.json_entries data.rows data.images data.splits "
    "data.sources.vqa_v2 data.sources.easy_vqa data.sources.hub",
    "demo": "serve.page serve.judges serve.html serve.space",
    "doc_tables": "report.heads_and_encoders report.markdown",
    "encoder_facts": "report.encoder_facts",
    "evaluation": "evaluation.evaluate evaluation.load evaluation.answering data.inputs records.files",
    "explain": "explain.explanation explain.words explain.shapley report.explanation",
    "explain_plots": "report.explanation",
    "export": "serve.onnx_export serve.onnx_graphs serve.onnx_answers",
    "faithfulness": "explain.faithfulness report.faithfulness",
    "feature_export": "features.publish",
    "feature_sets": "features.from_recipe",
    "features": "features.store features.identity features.build features.keys records.files",
    "plots": "report.curves",
    "predictions": "records.predictions",
    "publish": "hub.publish",
    "question_only": "training.question_only",
    "recipes": "/configuration_ume.parsing /configuration_ume.arguments",
    "releases": "report.releases",
    "reliability_tables": "report.reliability",
    "results": "records.files records.machine records.comparison report.scores report.markdown",
    "retrieval": "evaluation.retrieval",
    "run": "training.run build.tokenizer build.processor build.model "
    "build.lora data.prepare records.run_folder records.machine evaluation.baselines",
    "sampler": "data.sampler",
    "streaming": "data.streaming",
    "thesis": "evidence.thesis evidence.thesis_rows report.thesis",
    "trainer": "training.trainer training.callbacks evaluation.answering evaluation.scores records.checkpoints",
}


def new_homes(name: str) -> list[str]:
    """The full names of the modules that hold what `training_ume.{name}` held."""
    return [home[1:] if home.startswith("/") else f"{__package__}.{home}" for home in MOVED[name].split()]


def find(name: str):
    """The `__getattr__` of the module `training_ume.{name}` (PEP 562): looks an attribute up where it is now."""

    def getattribute(attribute: str):
        if not attribute.startswith("__"):
            for home in new_homes(name):
                if home == f"{__package__}.{name}":
                    continue
                module = importlib.import_module(home)
                if attribute in vars(module):
                    warnings.warn(
                        f"{__package__}.{name}.{attribute} is now in {home}.", DeprecationWarning, stacklevel=2
                    )
                    return vars(module)[attribute]
        raise AttributeError(f"module '{__package__}.{name}' has no attribute {attribute!r}")

    return getattribute


class MovedModules(MetaPathFinder, Loader):
    """Makes the modules of `MOVED` that no file and no package stands for any more."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __package__ and name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.rpartition(".")[2]
        module.__doc__ = f"Moved to {', '.join(new_homes(name))}."
        module.__getattr__ = find(name)


def install() -> None:
    """Behind all other finders, so that what is there comes first."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
