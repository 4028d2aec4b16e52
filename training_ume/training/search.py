"""Searching for hyperparameters with transformers' own search, by the score that also chooses checkpoints."""

from __future__ import annotations

from importlib.util import find_spec

from transformers.trainer_utils import BestRun

# What transformers searches with, and the packages to look for.
BACKENDS = {"optuna": "optuna", "ray": "ray", "wandb": "wandb"}


class Searching:
    """The part of [`UMETrainer`] that searches for hyperparameters: before HF's in its bases."""

    def hyperparameter_search(
        self, hp_space=None, compute_objective=None, n_trials=20, direction=None, backend=None, **kwargs
    ) -> BestRun | list[BestRun]:
        """
        As HF's, which sums up all scores and calls less better. Left out here, `compute_objective` is the score that
        chooses the best checkpoint (`metric_for_best_model`), in the trial's best evaluation so far where that
        checkpoint is kept (`load_best_model_at_end`) and its last one otherwise, and `direction` is that score's.

        Each trial begins with a model of `model_init` and has its checkpoints in `output_dir/run-N`.

        Args:
            hp_space (callable, *optional*): takes a trial, gives fields of [`UMETrainingArguments`] by name.
            n_trials (`int`): how many.
            backend (`str`, *optional*): `"optuna"`, `"ray"` or `"wandb"`; the first that is installed.

        Raises:
            ValueError: without a `model_init`, and for a metric that evaluations do not give.
            ImportError: when no backend, or not the one that is named, is installed.
        """
        if self.model_init is None:
            raise ValueError(
                "A search begins each trial with a new model: give UMETrainer a model_init that makes one, in place "
                "of the model."
            )
        wanted = [str(getattr(backend, "value", backend))] if backend is not None else list(BACKENDS)
        if not any(find_spec(BACKENDS.get(name, name)) for name in wanted):
            raise ImportError(f'A search needs {" or ".join(wanted)}: `pip install "ume[search]"` brings optuna.')
        if compute_objective is None:
            self.check_metric()
            if self.args.metric_for_best_model is None:
                raise ValueError("A search needs a score: name a metric_for_best_model, or give compute_objective.")
            compute_objective = self._best_score
        if direction is None:
            direction = "maximize" if self.args.greater_is_better else "minimize"
        return super().hyperparameter_search(hp_space, compute_objective, n_trials, direction, backend, **kwargs)

    def _best_score(self, metrics: dict[str, float]) -> float:
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        scores = [entry[name] for entry in self.state.log_history if name in entry] or [metrics[name]]
        if not self.args.load_best_model_at_end:
            return scores[-1]
        return (max if self.args.greater_is_better else min)(scores)
