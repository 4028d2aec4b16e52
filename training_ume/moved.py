"""Where the modules of one flat folder are now: `from training_ume.run import build_model` goes on working.

A module that is no longer there is made when it is asked for and looks each name up in the modules that its parts went
to; a package that took over its name does the same for names that it does not have itself.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
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
    "card": "hub.sections hub.data_sets hub.read report.markdown hub.card hub.learning_curve",
    "challenge": "evaluation.challenge",
    "checkpoints": "records.checkpoints",
    "collator": "data.collator",
    "common_tests": "report.common_tests",
    "console": "report.console",
    "data": "data.load data.json_entries data.rows data.images data.splits data.sources.official "
    "data.sources.easy_vqa data.sources.hub",
    "demo": "serve.page serve.judges serve.html serve.space",
    "demo_uploads": "serve.uploads",
    "doc_tables": "report.heads_and_encoders report.markdown",
    "encoder_facts": "report.encoder_facts",
    "evaluation": "evaluation.evaluate evaluation.load evaluation.asking evaluation.answering data.inputs "
    "records.files",
    "explain": "explain.explanation explain.words explain.shapley report.explanation records.explanation",
    "explain_plots": "report.explanation",
    "export": "serve.onnx_export serve.onnx_graphs serve.onnx_answers",
    "faithfulness": "explain.faithfulness report.faithfulness",
    "feature_export": "features.publish",
    "feature_keys": "features.keys",
    "feature_sets": "training.feature_sets",
    "features": "features.store features.identity features.build features.keys records.files",
    "json_entries": "data.json_entries",
    "lora": "build.lora",
    "outputs": "records.outputs",
    "pictures": "data.pictures",
    "plots": "report.curves hub.learning_curve records.packages",
    "predictions": "records.predictions",
    "publish": "hub.publish records.private",
    "question_only": "training.question_only",
    "recipes": "/configuration_ume.parsing /configuration_ume.arguments",
    "releases": "report.releases",
    "reliability_tables": "report.reliability",
    "requirements": "/configuration_ume.requirements /configuration_ume.scores",
    "results": "records.files records.machine records.comparison report.markdown",
    "retrieval": "evaluation.retrieval",
    "rows": "evaluation.rows",
    "run": "training.run build.tokenizer build.processor build.model build.lora training.prepare "
    "records.run_folder records.machine evaluation.baselines",
    "sampler": "data.sampler",
    "scoring": "evaluation.scores /configuration_ume.scores",
    "streaming": "data.streaming",
    "thesis": "evidence.thesis /configuration_ume.thesis_rows report.thesis",
    "trainer": "training.trainer training.callbacks training.loaders training.saving evaluation.answering "
    "evaluation.scores records.checkpoints data.order /configuration_ume.scores",
    "values": "/configuration_ume.values",
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
                    found = vars(module)[attribute]
                    place = getattr(found, "__module__", None)  # where it is defined, if that is one of ours
                    place = place if place in new_homes(name) else home
                    warnings.warn(
                        f"{__package__}.{name}.{attribute} is now in {place}.", DeprecationWarning, stacklevel=2
                    )
                    return found
        raise AttributeError(f"module '{__package__}.{name}' has no attribute {attribute!r}")

    return getattribute


class MovedModules(MetaPathFinder, Loader):
    """Makes the modules of `MOVED` that no file and no package stands for any more."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != __package__ or name not in MOVED or PathFinder.find_spec(fullname, path) is not None:
            return None
        return ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.rpartition(".")[2]
        module.__doc__ = f"Moved to {', '.join(new_homes(name))}."
        module.__getattr__ = find(name)


def install() -> None:
    """Before all other finders: that of another copy of this project would find the file that was there."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())
