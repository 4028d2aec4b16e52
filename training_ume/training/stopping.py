"""The end of a training whose score no longer rises."""

from __future__ import annotations

from transformers import TrainerCallback


class EarlyStopping(TrainerCallback):
    """
    As transformers' `EarlyStoppingCallback`: stops after `patience` evaluations in a row without a score that is above
    all before it.

    It counts in the log of the scores, which checkpoints hold: a training that goes on from one has seen what came
    before, and one that had already stopped there makes no further step.

    Args:
        patience (`int`): evaluations, at least 1.
    """

    def __init__(self, patience: int):
        self.patience = patience
        self.over = False  # before the first step of an epoch

    def without_gain(self, args, state) -> int:
        """How many evaluations in a row, the last included, gave no better score than the best before them."""
        name = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
        scores = [entry[name] for entry in state.log_history if name in entry]
        if not scores:
            return 0
        best = (max if args.greater_is_better else min)(scores)
        return len(scores) - 1 - scores.index(best)

    def on_evaluate(self, args, state, control, **kwargs):
        if self.without_gain(args, state) >= self.patience:
            control.should_training_stop = True

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.over = self.without_gain(args, state) >= self.patience
        control.should_training_stop = control.should_training_stop or self.over

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.over:  # nothing was trained since the last evaluation
            control.should_log = control.should_evaluate = control.should_save = False


def stopped_early(args, state) -> dict | None:
    """
    What results.json says of a training that stopped before its last epoch, None of any other.

    Returns:
        `dict`: `epoch` at which it stopped, and the `patience` and `score` that decided so.
    """
    patience = args.early_stopping_patience
    if patience is None or state.global_step >= state.max_steps:
        return None
    score = str(args.metric_for_best_model).removeprefix("eval_")
    return {"epoch": state.epoch, "patience": patience, "score": score}
