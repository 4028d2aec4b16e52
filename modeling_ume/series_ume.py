"""Series: what sensors measure step by step, in one channel or several, and what an encoder is given of them."""

import math
import os

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput, logging

from .cells_ume import as_array, as_number, missing, numbers_in
from .modality_base_ume import Modality, Setting, Size
from .parts_ume import Parts, cells_of, numbered, stretches
from .scalers_ume import SeriesScaler
from .streams_ume import check_shape, described

logger = logging.get_logger(__name__)
# Steps that are read of a series where nobody says how many: an hour at 2 Hz, half a minute at 250 Hz.
LONGEST = 8192
STRETCHES = 16  # which an explanation tells apart


class Series(Modality):
    """
    Sensors over time: this project's LSTM, GRU and 1-D CNN, PatchTST or PatchTSMixer.

    Encoders with a fixed `context_length` read a longer series in windows of that length, whose tokens stand one
    behind the other, and a shorter one padded to it. Their states [rows, channels, patches, width] are
    channels · patches tokens; class tokens of the channels are averaged to one.
    """

    name = "series"
    noun = nouns = "series"
    called = "series"
    inputs = ("series_values", "series_mask")
    mask = "series_states_mask"
    part = "series_scaler"
    part_classes = (SeriesScaler,)
    fitted = True
    own_encoder = "ume_lstm_series"
    feature_maps = True
    marks = ("num_input_channels",)
    reads = "a model that reads series, such as ume_lstm_series, ume_cnn_series or patchtst"
    column_names = (("signal", "signals", "time_series", "timeseries"),)
    suffixes = (".npy", ".csv", ".tsv")
    beside = ("series", "signals")
    code = '"signals.csv"'
    joins = True
    depth = 2
    settings = (
        Setting("series_length", int | None, "What is read of a series, from its beginning, in steps (left out: "
                f"all of the longest that is trained on, {LONGEST} at most).", None),
    )  # fmt: skip

    # ----------------------------------------------------------------------------------------------------- encoders

    def own_input(self, config, arguments):
        return next((name for name in (self.main_input, "past_values") if name in arguments), None)

    def follow_part(self, config, part, settings):
        config.num_input_channels = part.channels

    def check_config(self, config, part):
        channels = _channels(config)
        if part is not None and channels != part.channels:
            raise ValueError(
                f"The series encoder {config.model_type!r} reads {channels} channels, and the data have "
                f"{part.channels}: give another encoder, or the channels that it was trained with."
            )

    def check(self, adapter, encoder, inputs):
        values = inputs.get(self.main_input)
        if values is not None:
            channels = _channels(encoder.config)
            if (
                not isinstance(values, Tensor)
                or not values.is_floating_point()
                or values.ndim != 3
                or not values.shape[0]
                or not values.shape[1]
                or values.shape[2] != channels
            ):
                raise ValueError(
                    f"{self.main_input} is {described(values)}: give floating-point numbers [series, steps, "
                    f"{channels}] of one step or more."
                )
            check_shape("series_mask", inputs.get("series_mask"), values.shape, "one truth value a number")
        self.check_index(inputs)
        self.check_mask(inputs)

    def example(self, config, rows=1):
        shape = (rows, getattr(config, "context_length", 8), _channels(config))
        return {self.main_input: torch.empty(shape, device="meta"), "series_mask": torch.ones(shape, dtype=torch.bool)}

    def graph_sizes(self, config):
        if hasattr(config, "context_length"):
            return {self.main_input: {}, "series_mask": {}}
        # Convolutions leave a part of the steps: which, can be told of whole ones alone.
        steps = {1: Size("steps", multiple=math.prod(getattr(config, "strides", ())))}
        return {self.main_input: steps, "series_mask": steps}

    def prepare(self, encoder, inputs):
        inputs = super().prepare(encoder, inputs)
        values = inputs.get(self.main_input)
        if values is None:
            return inputs
        there = inputs.get("series_mask")
        there = torch.ones_like(values, dtype=torch.bool) if there is None else there.bool()
        there = there & values.isfinite()
        # What is not there is 0 whatever stands in its place: nothing may depend on it.
        return {**inputs, self.main_input: values.masked_fill(~there, 0.0), "series_mask": there}

    def encoder_inputs(self, encoder, arguments, inputs):
        if "past_values" not in arguments:
            return super().encoder_inputs(encoder, arguments, inputs)
        seen = next(name for name in ("past_observed_mask", "observed_mask") if name in arguments)
        return {"past_values": inputs[self.main_input], seen: inputs["series_mask"].to(inputs[self.main_input].dtype)}

    def read(self, adapter, encoder, inputs, record=None):
        """As the base class; of a fixed length in windows."""
        length = getattr(encoder.config, "context_length", None)
        if length is None:
            return super().read(adapter, encoder, inputs, record)
        windows = {name: _windows(inputs[name], length) for name in self.inputs}  # [rows · W, length, C]
        outputs = adapter.run(encoder, self.encoder_inputs(encoder, adapter.arguments, windows), record)
        rows = len(inputs[self.main_input])
        states = outputs.last_hidden_state.unflatten(0, (rows, -1))  # [rows, W, C, P, D]
        real = _patches_there(encoder.config, windows["series_mask"]).unflatten(0, (rows, -1))  # [rows, W, C, P]
        tokens, num_special = _one_row(encoder.config, states, real)
        mask = real.flatten(1)
        if num_special:
            mask = torch.cat([mask.any(1, keepdim=True), mask], dim=1)
        joined = BaseModelOutput(last_hidden_state=tokens)
        stream = self.stream(adapter, encoder, joined, {**inputs, self.mask: mask, "num_special": num_special})
        return stream, outputs

    def tokens(self, config, outputs: ModelOutput, inputs: dict):
        states = outputs.last_hidden_state
        if states.ndim == 3:
            return states, inputs.get("num_special", 0), None
        real = _patches_there(config, inputs["series_mask"].to(states.device))
        tokens, num_special = _one_row(config, states[:, None], real[:, None])
        return tokens, num_special, None

    def token_mask(self, states, inputs):
        mask = inputs.get(self.mask)
        if mask is not None:
            return mask.bool()
        there = inputs.get("series_mask")
        if there is None:
            return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return steps_there(there, states.shape[1])

    # --------------------------------------------------------------------------------------------------- processing

    def fit(self, cells, config, settings):
        length = settings.get("series_length")
        longest = 0

        def arrays():
            nonlocal longest
            for number, cell in enumerate(cells):
                if self.lacks(cell):
                    yield None
                    continue
                try:
                    array = self.open(cell)
                except ValueError as error:
                    raise ValueError(f"The series of training row {number}: {error}") from error
                longest = max(longest, len(array))
                yield array

        part = SeriesScaler.fit(arrays(), length)
        if length is None:
            part.length = min(longest, LONGEST)
            if longest > LONGEST:
                logger.warning(
                    f"The longest series has {longest:,} steps: the first {LONGEST:,} of each are read. Another "
                    "series_length says otherwise."
                )
        return part

    def cell(self, cells):
        arrays = {name: numbers_in(value) for name, value in cells.items()}
        there = {name: as_series(value) for name, value in arrays.items() if value is not None}
        if not there:
            return None
        steps = {name: len(array) for name, array in there.items()}
        if len(set(steps.values())) > 1:
            lengths = ", ".join(f"{name} {count}" for name, count in steps.items())
            raise ValueError(f"the channels have different numbers of steps ({lengths}): give them one length")
        empty = np.full((next(iter(steps.values())), 1), np.nan)
        return list(np.concatenate([there.get(name, empty) for name in arrays], axis=1))

    def made_up(self, config, part, number=0):
        """Numbers as the training rows had them, [steps, channels]."""
        steps = (20, 33, 12)[number % 3]
        steps = min(steps, part.length or steps)
        walk = torch.randn(steps, part.channels, generator=torch.Generator().manual_seed(number)).cumsum(0)
        return walk / steps**0.5 * torch.tensor(part.deviations) + torch.tensor(part.means)

    def names_file(self, cell):
        return isinstance(cell, str) and bool(cell)

    def lacks(self, cell):
        if cell is None or isinstance(cell, (str, bytes)):
            return not cell
        try:
            array = as_array(cell)
        except ValueError:
            return False  # whoever reads it says what is wrong
        return not array.size or bool(np.isnan(array).all())

    def readable(self, cell):
        return not self.lacks(cell)

    def open(self, cell, content=None):
        """[steps, channels] of float64, NaN where a value is missing, of lists, an array, or the path of a file."""
        if isinstance(cell, (str, os.PathLike)) and not str(cell).lstrip().startswith("["):
            return read_series(os.fspath(cell), content)
        return as_series(numbers_in(cell) if isinstance(cell, str) else cell)

    def collate(self, part, values):
        """Arrays [steps, channels] → `series_values` and `series_mask` [B, T, C], padded to the longest of them."""
        if part is None:
            raise ValueError(f"There is no {self.part}: give the processor one, as SeriesScaler.fit makes it.")
        cut = [value[: part.length] for value in values]
        if (longer := sum(len(value) > len(kept) for value, kept in zip(values, cut, strict=True))) > 0:
            logger.warning_once(
                f"Of {longer} series the first {part.length:,} steps are read, as many as series_length says, and no "
                "more."
            )
        scaled = [part(value) for value in cut]
        steps = max(len(value) for value in cut)
        numbers = torch.zeros(len(cut), steps, part.channels)
        there = torch.zeros(len(cut), steps, part.channels, dtype=torch.bool)
        for row, (value, seen) in enumerate(scaled):
            numbers[row, : len(value)] = torch.from_numpy(value)
            there[row, : len(value)] = torch.from_numpy(seen)
        return {self.main_input: numbers, "series_mask": there}

    def process(self, part, values, **options):
        """
        Series → model inputs.

        Args:
            values: one series ([steps, channels] or, of a single channel, [steps]: lists, an array, a path of .npy,
                .csv or .tsv), or a list of several arrays, paths or such lists.
        """
        several = [values] if _is_one(values) else list(values)
        if not several:
            raise ValueError("series is an empty list: give one series or more.")
        lacking = next((number for number, value in enumerate(several) if self.lacks(value)), None)
        if lacking is not None:
            raise ValueError(f"The series number {lacking} holds nothing: leave it out, or give one value at least.")
        return self.collate(part, [self.open(value) for value in several])

    # -------------------------------------------------------------------------------------------------- explanations

    def parts(self, part, config, cell, inputs):
        """Channels × stretches of time; where one is taken away, each channel has its mean over the training rows.
        What is missing, and what only pads, belongs to no part."""
        there = inputs["series_mask"][0].bool().cpu()  # [T, C]
        read = int(steps_there(there[None], len(there)).sum())
        stretch = torch.zeros(len(there), dtype=torch.long)
        stretch[:read] = cells_of(read, STRETCHES)
        times = stretches("step", stretch[: max(read, 1)])
        channels = numbered("channel", there.shape[1])
        of = torch.arange(there.shape[1]) * len(times.labels) + stretch[:, None]
        blank = torch.zeros_like(inputs[self.main_input][0])
        of = {self.main_input: torch.where(there, of, -1)}
        return Parts((channels, times), of, {self.main_input: blank}, "curves", np.asarray(cell)[:read])


def as_series(value) -> np.ndarray:
    """
    Numbers as [steps, channels].

    Raises:
        ValueError: for what is none, or has more than two dimensions.
    """
    array = as_array(value.detach().cpu() if isinstance(value, Tensor) else value)
    if array.ndim < 2:
        array = array.reshape(-1, 1)
    if array.ndim > 2:
        raise ValueError(f"a series has steps and channels, and this one the shape {list(array.shape)}: give two")
    if not array.size:
        raise ValueError("the series is empty")
    return array


def read_series(path: str, content: bytes | None = None) -> np.ndarray:
    """
    The series in a file: .npy [steps, channels], or a line a step in .csv and .tsv, whose first line may name the
    channels.

    Raises:
        ValueError: naming the file, and the line.
    """
    import io

    try:
        if content is None:
            with open(path, "rb") as file:
                content = file.read()
        if path.lower().endswith(".npy"):
            return as_series(np.load(io.BytesIO(content), allow_pickle=False))
        return _lines(content.decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"The series {path!r} does not exist: check the path.") from error
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise ValueError(f"The series {path!r} cannot be read ({error}).") from error


def _lines(text: str) -> np.ndarray:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    separator = next((sign for sign in ("\t", ";", ",") if sign in lines[0]), None)
    rows = [[cell.strip() for cell in line.split(separator)] for line in lines]
    start = 0 if all(map(_is_number, rows[0])) else 1
    if len(rows) == start:
        raise ValueError("it has a line of names and no number below it")
    found = []
    for number, row in enumerate(rows[start:], start + 1):
        if len(row) != len(rows[0]):
            raise ValueError(f"line {number} has {len(row)} cells, and the first {len(rows[0])}")
        try:
            found.append([np.nan if (value := as_number(cell)) is None else value for cell in row])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return as_series(found)


def _is_number(text: str) -> bool:
    try:
        as_number(text)
    except ValueError:
        return False
    return True


def _is_one(values) -> bool:
    """Whether a caller gave one series, not several."""
    if isinstance(values, (str, os.PathLike)) or not isinstance(values, (list, tuple)):
        return getattr(values, "ndim", 0) < 3
    if not values:
        return False
    first = next((value for value in values if not missing(value)), None)
    if first is None or isinstance(first, (str, os.PathLike)) or getattr(first, "ndim", 0) > 0:
        return first is None
    # Of lists in lists, those three deep are several.
    return not (isinstance(first, (list, tuple)) and any(isinstance(inner, (list, tuple)) for inner in first))


def steps_there(there: Tensor, tokens: int) -> Tensor:
    """[rows, steps, channels] → [rows, tokens] bool: those up to the last step that has any value, where a token
    stands for every so many steps."""
    steps = there.any(2)  # [rows, T]
    places = torch.arange(1, steps.shape[1] + 1, device=steps.device)
    lengths = (steps * places).amax(1)  # [rows]
    every = -(-steps.shape[1] // tokens)
    return torch.arange(tokens, device=steps.device) * every < lengths[:, None]


def _channels(config) -> int:
    return getattr(config, "num_input_channels", 1)


def _windows(values: Tensor, length: int) -> Tensor:
    """[rows, T, C] → [rows · W, length, C], the last one padded with 0."""
    rest = -values.shape[1] % length
    values = torch.nn.functional.pad(values, (0, 0, 0, rest)) if rest else values
    return values.unflatten(1, (-1, length)).flatten(0, 1)


def _patches_there(config, there: Tensor) -> Tensor:
    """[rows, length, C] → [rows, C, P] bool: which patches hold any value."""
    patch, stride = config.patch_length, config.patch_stride
    count = (max(there.shape[1], patch) - patch) // stride + 1
    start = there.shape[1] - (patch + stride * (count - 1))  # the first steps, where patches do not fill the length
    return there[:, start:].unfold(1, patch, stride).any(3).transpose(1, 2)


def _one_row(config, states: Tensor, real: Tensor) -> tuple[Tensor, int]:
    """[rows, W, C, P (+ 1), D] → tokens [rows, N, D], the mean of the class tokens first where there are any, and how
    many stand before the patches."""
    if states.shape[3] == real.shape[3]:
        return states.flatten(1, 3), 0
    special = real.any(3)[..., None].to(states.dtype)  # [rows, W, C, 1]: of what holds nothing, nothing counts
    summary = (states[:, :, :, 0] * special).sum((1, 2)) / special.sum((1, 2)).clamp(min=1)
    return torch.cat([summary[:, None], states[:, :, :, 1:].flatten(1, 3)], dim=1), 1
