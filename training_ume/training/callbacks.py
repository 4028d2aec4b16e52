"""What happens beside the steps of a training: epochs told to the sampler, checkpoints, time."""

from __future__ import annotations

import time

from transformers import TrainerCallback

from training_ume.data.sampler import GroupedByImageSampler
from training_ume.data.streaming import BatchStream


class SetEpoch(TrainerCallback):
    """Tells the sampler the epoch, also where accelerate's wrappers hide it: several devices, resumed in mid-epoch."""

    def __init__(self, sampler: GroupedByImageSampler | BatchStream):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch))
        if isinstance(self.sampler, BatchStream) and not args.ignore_data_skip:
            # The Trainer throws these batches away when it resumes in mid-epoch: none of them need be read.
            steps = -(-len(self.sampler) // args.gradient_accumulation_steps)
            self.sampler.skip(state.global_step % steps * args.gradient_accumulation_steps)


class SaveAfterEvaluation(TrainerCallback):
    """Lets a checkpoint at an epoch's last step wait for the evaluation at its end: a run that goes on from there has
    then made it, with the random numbers that it draws."""

    waits = False

    def on_step_end(self, args, state, control, **kwargs):
        self.waits = control.should_save and (control.should_training_stop or float(state.epoch).is_integer())
        control.should_save = control.should_save and not self.waits

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save = control.should_save or self.waits
        self.waits = False


class Stopwatch(TrainerCallback):
    """Writes `seconds` and `cpu_seconds` into every entry of the log while training runs: time spent training and
    evaluating, earlier sessions included. The second counts this process on all its cores, and nothing else that the
    machine does. Evaluations before and after it have no place on that clock."""

    clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}  # noqa: RUF012
    started: dict[str, float] | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        before = next((entry for entry in reversed(state.log_history) if "seconds" in entry), {})
        self.started = {name: clock() - before.get(name, 0.0) for name, clock in self.clocks.items()}

    def on_train_end(self, args, state, control, **kwargs):
        self.started = None

    def on_log(self, args, state, control, **kwargs):
        for name, clock in self.clocks.items() if self.started is not None else ():
            state.log_history[-1][name] = clock() - self.started[name]
