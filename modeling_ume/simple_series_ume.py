"""This repo's own encoders of series: LSTM, GRU and a 1-D CNN, which `AutoModel` lacks.

Each reads `series_values` [B, T, C] and `series_mask` [B, T, C], 1 where a value is there; what is missing is told
from 0, and what stands behind a row's last value changes nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .sizes_ume import check_dropout, check_sizes


class UMELSTMSeriesConfig(PretrainedConfig):
    r"""
    Configuration of [`UMELSTMSeriesModel`]: Hochreiter and Schmidhuber's LSTM (1997) over the steps of a series.

    Args:
        num_input_channels (`int`, *optional*, defaults to 1): channels of the series; a recipe takes the data's.
        hidden_size (`int`, *optional*, defaults to 128): width of a layer, in each direction.
        num_layers (`int`, *optional*, defaults to 1): layers on top of each other.
        bidirectional (`bool`, *optional*, defaults to `False`): read the series backwards, too.
        stride (`int`, *optional*, defaults to 1): a token is the mean of so many steps' states.
        dropout (`float`, *optional*, defaults to 0.0): dropout between the layers.

    Raises:
        ValueError: for an impossible size.
    """

    model_type = "ume_lstm_series"

    def __init__(
        self, num_input_channels=1, hidden_size=128, num_layers=1, bidirectional=False, stride=1, dropout=0.0, **kwargs
    ):
        self.num_input_channels = num_input_channels
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.stride = stride
        self.dropout = dropout
        super().__init__(**kwargs)
        check_sizes(self, "num_input_channels", "hidden_size", "num_layers", "stride")
        check_dropout(self)


class UMEGRUSeriesConfig(UMELSTMSeriesConfig):
    """The same of [`UMEGRUSeriesModel`]: the GRU of Cho et al. (2014)."""

    model_type = "ume_gru_series"

    def __init__(
        self, num_input_channels=1, hidden_size=128, num_layers=1, bidirectional=False, stride=1, dropout=0.0, **kwargs
    ):
        super().__init__(
            num_input_channels=num_input_channels,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            stride=stride,
            dropout=dropout,
            **kwargs,
        )


class UMECNNSeriesConfig(PretrainedConfig):
    r"""
    Configuration of [`UMECNNSeriesModel`]: residual convolutions over time, as in "Time Series Classification from
    Scratch with Deep Neural Networks" (Wang et al., 2017), with layer normalisation, which no other row has part in.

    Args:
        num_input_channels (`int`, *optional*, defaults to 1): channels of the series; a recipe takes the data's.
        hidden_sizes (`list[int]`, *optional*, defaults to `[64, 128, 128]`): channels of each layer.
        kernel_size (`int`, *optional*, defaults to 7): steps that a convolution sees, an odd number.
        strides (`list[int]`, *optional*): steps that each layer makes one of; defaults to 2 a layer.
        dropout (`float`, *optional*, defaults to 0.1): dropout after each layer.

    Raises:
        ValueError: for an impossible size.
    """

    model_type = "ume_cnn_series"

    def __init__(
        self, num_input_channels=1, hidden_sizes=(64, 128, 128), kernel_size=7, strides=None, dropout=0.1, **kwargs
    ):
        self.num_input_channels = num_input_channels
        self.hidden_sizes = list(hidden_sizes)
        self.kernel_size = kernel_size
        self.strides = [2] * len(self.hidden_sizes) if strides is None else list(strides)
        self.dropout = dropout
        super().__init__(**kwargs)
        check_sizes(self, "num_input_channels", "kernel_size")
        check_sizes(self, "hidden_sizes", "strides")
        if len(self.strides) != len(self.hidden_sizes):
            raise ValueError(
                f"strides={self.strides} and hidden_sizes={self.hidden_sizes} are of different numbers of layers: "
                "give one of each a layer."
            )
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} is impossible: give an odd number, which has a middle.")
        check_dropout(self)


def steps_real(mask: Tensor) -> Tensor:
    """[B, T, C] bool → [B, T]: the steps up to the last one that holds a value; those in between count, if empty."""
    there = mask.any(2)
    return there.flip(1).int().cumsum(1).flip(1) > 0


def init_recurrent(module: nn.RNNBase) -> None:
    """Draws the weights of a recurrent network: Glorot's for its inputs, orthogonal ones from state to state."""
    for name, parameter in module.named_parameters():
        if name.startswith("weight_ih"):
            init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            init.orthogonal_(parameter)
        else:
            init.zeros_(parameter)


class _SeriesEncoder(PreTrainedModel):
    supports_gradient_checkpointing = False
    main_input_name = "series_values"
    base_model_prefix = "series_encoder"

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.RNNBase):
            init_recurrent(module)

    @staticmethod
    def _seen(series_values: Tensor, series_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values with their mask beside them, [B, T, 2C], and which steps are real, [B, T]."""
        mask = torch.ones_like(series_values, dtype=torch.bool) if series_mask is None else series_mask.bool()
        values = series_values.masked_fill(~mask, 0.0)
        return torch.cat([values, mask.to(values.dtype)], dim=2), steps_real(mask)


class UMELSTMSeriesModel(_SeriesEncoder):
    r"""
    A recurrent network over the steps of each series.

    `last_hidden_state` [B, ⌈T / stride⌉, hidden_size · directions] holds the top layer's states, `pooler_output`
    [B, layers · directions · hidden_size] the last hidden state of each layer. States of what is not real are zero.

    Args:
        config ([`UMELSTMSeriesConfig`]): what to build, with random weights.
    """

    config_class = UMELSTMSeriesConfig
    cell = nn.LSTM

    def __init__(self, config: UMELSTMSeriesConfig):
        super().__init__(config)
        self.rnn = self.cell(
            2 * config.num_input_channels,
            config.hidden_size,
            num_layers=config.num_layers,
            dropout=config.dropout if config.num_layers > 1 else 0.0,  # there is no other place between layers
            bidirectional=config.bidirectional,
            batch_first=True,
        )
        self.post_init()

    def forward(self, series_values: Tensor, series_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """series_values [B, T, C], series_mask [B, T, C] with 1 where a value is there (default: everywhere)."""
        seen, real = self._seen(series_values, series_mask)
        # A row of nothing is read as one step, which the mask takes away again.
        lengths = real.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(seen, lengths, batch_first=True, enforce_sorted=False)
        outputs, last = self.rnn(packed)
        states, _ = pad_packed_sequence(outputs, batch_first=True, total_length=seen.shape[1])  # [B, T, D]
        last = last[0] if isinstance(last, tuple) else last  # [layers · directions, B, D]
        pooled = last.transpose(0, 1).flatten(1) * real.any(1, keepdim=True)
        return BaseModelOutputWithPooling(
            last_hidden_state=means_of(states, real, self.config.stride), pooler_output=pooled
        )


class UMEGRUSeriesModel(UMELSTMSeriesModel):
    """As [`UMELSTMSeriesModel`], of gated recurrent units."""

    config_class = UMEGRUSeriesConfig
    cell = nn.GRU


def means_of(states: Tensor, real: Tensor, every: int) -> Tensor:
    """[B, T, D] → [B, ⌈T / every⌉, D], the means of every so many steps, of those that are real."""
    rest = -states.shape[1] % every
    states = nn.functional.pad(states * real[..., None], (0, 0, 0, rest)).unflatten(1, (-1, every))
    counts = nn.functional.pad(real, (0, rest)).unflatten(1, (-1, every)).sum(2, keepdim=True)
    return states.sum(2) / counts.clamp(min=1)


class UMECNNSeriesModel(_SeriesEncoder):
    r"""
    Convolutions over the steps of each series, each with a short cut past it.

    `last_hidden_state` [B, N, hidden_sizes[-1]], where N is T divided by the product of the strides, rounded up.

    Args:
        config ([`UMECNNSeriesConfig`]): what to build, with random weights.
    """

    config_class = UMECNNSeriesConfig

    def __init__(self, config: UMECNNSeriesConfig):
        super().__init__(config)
        widths = [2 * config.num_input_channels, *config.hidden_sizes]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, wider, config.kernel_size, stride=stride, padding=config.kernel_size // 2)
            for width, wider, stride in zip(widths, config.hidden_sizes, config.strides, strict=False)
        )
        self.short_cuts = nn.ModuleList(
            nn.Conv1d(width, wider, 1, stride=stride, bias=False)
            for width, wider, stride in zip(widths, config.hidden_sizes, config.strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in config.hidden_sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(self, series_values: Tensor, series_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """series_values [B, T, C], series_mask [B, T, C] with 1 where a value is there (default: everywhere)."""
        states, real = self._seen(series_values, series_mask)
        for convolution, short_cut, norm in zip(self.convolutions, self.short_cuts, self.norms, strict=True):
            # Behind a row's last step stands 0 in every layer, as there does behind the longest of the batch.
            channels = (states * real[..., None]).transpose(1, 2)
            states = norm(convolution(channels).transpose(1, 2)).relu() + short_cut(channels).transpose(1, 2)
            states = self.dropout(states)
            real = real[:, :: convolution.stride[0]]
        return BaseModelOutputWithPooling(last_hidden_state=states * real[..., None])


SERIES_ENCODERS: dict[str, type[PreTrainedModel]] = {
    "ume_lstm_series": UMELSTMSeriesModel,
    "ume_gru_series": UMEGRUSeriesModel,
    "ume_cnn_series": UMECNNSeriesModel,
}
