"""An exponential moving average of the weights that are trained, to evaluate and to keep in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback


class WeightAverage(TrainerCallback):
    """
    After every step t the average becomes d · average + (1 − d) · weights, d = min(decay, (1 + t) / (10 + t)).

    The rising decay lets a short run forget its first weights. Buffers, such as BatchNorm's statistics, are not
    averaged: the model's own are used with either weights.

    Args:
        parameters: what to average; the average begins with their present values.
        decay (`float`): in [0, 1).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters = list(parameters)
        self.decay = decay
        self.restart()

    def restart(self) -> None:
        """Lets the average be what the weights are now."""
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    def update(self, step: int) -> None:
        """Takes in the weights as they are after so many steps, at least one."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self.averages, [parameter.detach() for parameter in self.parameters], step)

    def swap(self) -> None:
        """Exchanges the model's weights and their average."""
        for i, parameter in enumerate(self.parameters):
            parameter.data, self.averages[i] = self.averages[i], parameter.data

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it, the model has the average for weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def on_step_end(self, args, state, control, **kwargs):
        self.update(state.global_step)
