"""Which checkpoint is the best: the score that fits the rows, asked for by a name that evaluations will give."""

from __future__ import annotations

from datasets import Dataset

from configuration_ume.arguments import UMETrainingArguments
from configuration_ume.scores import ALWAYS_SCORED, lower_is_better
from training_ume.data.streaming import StreamedQuestions
from training_ume.evaluation.rows import as_rows, is_named_sets
from training_ume.evaluation.scores import FittingScore


class BestCheckpoint:
    """The part of [`UMETrainer`] that chooses a checkpoint by a score: before HF's in its bases."""

    def _own_rows(self, name: str | None) -> Dataset | StreamedQuestions | dict:
        """The trainer's `eval_dataset`, or the one of this name in it."""
        if self.eval_dataset is None:
            raise ValueError("The trainer has no eval_dataset: give it one, or give evaluate the rows.")
        if name is None:
            return self.eval_dataset
        named = self.eval_dataset if is_named_sets(self.eval_dataset) else {}
        if name not in named:
            there = (
                f"choose from {', '.join(named)}" if named else "the trainer has a single one, so leave the name out"
            )
            raise ValueError(f"eval_dataset={name!r} is no name of an evaluation set: {there}.")
        return named[name]

    def metric_names(self) -> list[str] | None:
        """What evaluations in training will give, as `eval_vqa_accuracy`; None: only the caller's metric knows."""
        rows = self._own_rows(None)
        sets = {f"eval_{name}": part for name, part in rows.items()} if is_named_sets(rows) else {"eval": rows}
        if not self._scores_answers and not self.args.prediction_loss_only:
            return None
        names = [f"{prefix}_loss" for prefix in sets]
        if not self.args.prediction_loss_only:
            names += [
                f"{prefix}_{name}" for prefix, part in sets.items() for name in self.scoring.names(as_rows(part))
            ]
        return names

    def _choose_metric(self, args: UMETrainingArguments, eval_dataset) -> None:
        """Puts the score that fits the rows to evaluate in the place of `metric_for_best_model="auto"`."""
        if args.prediction_loss_only or not self._scores_answers:
            self.selected_by = FittingScore("loss", "evaluations give no score of the answers that is known")
            args.metric_for_best_model, args.greater_is_better = "eval_loss", False
            return
        prefix, rows = "eval", eval_dataset
        if is_named_sets(rows) and rows:
            first, rows = next(iter(rows.items()))
            prefix = f"eval_{first}"
        answers = [] if rows is None or len(rows) == 0 else as_rows(rows)["answers"][:]
        self.selected_by = self.scoring.fitting(answers)
        args.metric_for_best_model = f"{prefix}_{self.selected_by.name}"
        args.greater_is_better = not lower_is_better(self.selected_by.name)

    def check_metric(self) -> None:
        """Raises ValueError when `metric_for_best_model` matters and is none of what evaluations will give."""
        wanted = self.args.metric_for_best_model
        if wanted is None or self.args.eval_strategy == "no" or not self._needs_metric():
            return
        alone = not (self.args.prediction_loss_only or is_named_sets(self.eval_dataset))
        if alone and wanted.removeprefix("eval_") in ALWAYS_SCORED:
            return
        names = self.metric_names()
        if names is not None and wanted not in names and f"eval_{wanted}" not in names:
            raise ValueError(
                f"metric_for_best_model={wanted!r} is not among what evaluations give: choose from {', '.join(names)}."
            )

    def _needs_metric(self) -> bool:
        args = self.args
        by_metric = args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        stops = args.early_stopping_patience is not None
        return args.load_best_model_at_end or args.save_strategy == "best" or by_metric or stops

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """
        As HF's, but of checkpoints with the same score the one with the lower loss is the best, and of those with the
        same loss, too, the earlier, which needed less training. So a score that never changes does not choose.
        """
        if not self._needs_metric():
            return False  # HF's asks for the metric even where nothing depends on it
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        sets = self.eval_dataset if is_named_sets(self.eval_dataset) else ()
        loss = next((f"eval_{part}_loss" for part in sets if name.startswith(f"eval_{part}_")), "eval_loss")
        losses = {entry["step"]: entry[loss] for entry in self.state.log_history if loss in entry}
        least = losses.get(self.state.best_global_step)
        tie = metrics.get(name) is not None and metrics[name] == self.state.best_metric
        if tie and least is not None and metrics.get(loss, least) < least:
            self.state.best_metric = None  # so that this one takes its place
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:
            raise ValueError(
                f"metric_for_best_model={self.args.metric_for_best_model!r} is not among what the evaluation gave: "
                f"choose from {', '.join(metrics)}."
            ) from error
