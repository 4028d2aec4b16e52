"""What the rest of the code knows of a modality: its fields, its model inputs, how an encoder reads it, a data cell.

`Modality` is what a modality inherits; `MODALITIES` in modalities_ume.py is the table of them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .cells_ume import numbers_in
from .modality_names_ume import Named
from .numerics_ume import cut_off
from .parts_ume import Parts, numbered
from .streams_ume import Stream, check_ids, check_shape, described


class Setting(NamedTuple):
    """A field that a recipe has for one modality: `help` says what it is, None stands for what the encoder itself has.
    Its name begins with that of the modality."""

    name: str
    type: Any
    help: str
    default: Any = None


class Size(NamedTuple):
    """What one dimension of an encoder's input counts, where it may be any number from `least` on; with `multiple` any
    multiple of that, two of them or more, which a row is padded to (of its mask, with 0)."""

    name: str
    least: int = 2
    multiple: int = 1


class Modality(Named):
    """
    One kind of input. A class that inherits says what its encoders are given, and where they need more than a call,
    how they are read; by itself this one fits an encoder that takes one tensor of numbers [rows, …] and returns
    `last_hidden_state` [rows, tokens, width].

    Attributes:
        name: the key in `MODALITIES`, and the start of its fields, weights and stored states.
        short: what the inputs that say who has it, and which, begin with.
        noun, nouns: what one and several of it are called in a sentence.
        file_noun: what a file of it is called by who has it.
        subject: what it is called by who knows no models; `subjects` are several.
        called: how the encoder is called in a sentence: "the image encoder".
        aliases: other names that callers have for it.
        inputs: what `forward` takes of it, the encoder's main input first.
        instead: those that stand in the place of the main input.
        later_inputs: more of these, which releases after the first have added.
        argument: what a processor's call names it.
        part: the attribute of the processor that prepares it; None: numbers are taken as they are.
        part_classes: classes of this project that the part may be of instead of one of transformers: small objects
            with `to_dict()` and a class method `from_dict(fields)`, which processor_config.json holds.
        part_settings: what a caller may say of the part besides which encoder it is for, see `load_part`.
        settings: what a recipe, and `from_encoders_pretrained`, may say of it besides its encoder; see `fit_config`
            and `load_part`.
        own_encoder: `model_type` of an encoder of this project that needs no settings; None: there is none.
        fitted: whether the part is made of the training rows, see `fit`, instead of loaded with an encoder.
        column: the column of a table of rows that holds it.
        default_config: `model_type` of the encoder where a config names none; None: it has to be given.
        halves: what a config of several models calls that of this modality.
        marks: fields by which a config shows that it is of such an encoder.
        mask: the input that says which of the stored states are real.
        feature_maps: whether encoders of it may return a map [rows, width, height, width] instead of tokens.
        has_grid: whether its tokens may form a grid, as the places of an image do.
        in_files: whether a cell is the path of a file, whose content counts, not its name.
        shard_rows: rows in a shard of stored states, which is what a kill can cost: some 80 MB of images at
            ViT-B/16-224, 60 MB of questions at BERT-base.
        batch_rows: rows that are encoded together to be stored. Fixed, so that the same data give the same bits
            whoever builds them, in whatever pieces.
        ordered: whether its tokens have a last one that has seen all others, as words have.
        reads_empty: whether an encoder can be given an empty cell, as a text without words.
        of_new: fields of a recipe that a new encoder needs and a pretrained one brings along.
        of_recipe: fields of a recipe that fit the encoder that it names, and not whichever is put in its place.
        reads: what encoders of it read, for a sentence that tells to choose one.
        column_names: names of a table's columns that mean it, the surest first; of two in one tier, neither is surer.
            That of `column` itself needs no mention.
        suffixes: endings of the files that a cell may name.
        begins: a regular expression for the first bytes of such files, where their name does not tell.
        beside: folders beside a table in which such files are sought, too.
        joins: whether several columns of a table may make one cell.
        by_name: whether a cell keeps the columns that it is made of apart, under their names.
        as_folder: whether a folder of files may stand for one file.
        hub_classes, hub_numbers: what the Hub calls the task of telling classes, or numbers, from it; "": it has none.
        packages: what reading its files needs beyond torch, transformers and pillow.
        shown_as: what of gradio shows one on a page; "": nothing does.
        code: how the code of a card says one of it; `code_import` is what that needs.
        explained: how an explanation looks at it, see EXPLAINED in training_ume/explain/explanation.py: by the parts
            that `parts` makes, or in a way of its own.
        depth: how deep its numbers lie in lists, where a cell holds them itself; 0: as the first one does.
    """

    name = ""
    short = noun = nouns = called = file_noun = subject = ""
    aliases: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    later_inputs: tuple[str, ...] = ()
    argument = ""
    part: str | None = None
    part_classes: tuple[type, ...] = ()
    part_settings: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    own_encoder: str | None = None
    column = ""
    default_config: str | None = None
    halves: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    mask = ""
    feature_maps = has_grid = in_files = ordered = reads_empty = fitted = False
    shard_rows, batch_rows = 4096, 128
    of_new: tuple[str, ...] = ()
    of_recipe: tuple[str, ...] = ()
    reads = ""
    column_names: tuple[tuple[str, ...], ...] = ()
    suffixes: tuple[str, ...] = ()
    begins = b""
    beside: tuple[str, ...] = ()
    hub_classes = hub_numbers = ""
    packages: tuple[str, ...] = ()
    shown_as = ""
    code, code_import = "…", ""
    joins = by_name = as_folder = False
    explained = "parts"
    depth = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # What most are called, from the one thing that has to be said.
        cls.short = cls.short or cls.name
        cls.noun = cls.noun or cls.name
        cls.mask = cls.mask or f"{cls.name}_mask"
        cls.file_noun = cls.file_noun or cls.noun
        cls.subject = cls.subject or cls.noun
        cls.nouns = cls.nouns or f"{cls.noun}s"
        cls.called = cls.called or cls.noun
        cls.inputs = cls.inputs or (cls.name,)
        cls.argument = cls.argument or cls.name
        cls.column = cls.column or cls.name
        cls.halves = cls.halves or (f"{cls.name}_config",)
        cls.reads = cls.reads or f"a model that reads {cls.nouns}"

    # ---------------------------------------------------------------------------------------------------- encoders

    def shows(self, config) -> bool:
        """Whether a config shows that it is of an encoder of this modality."""
        return any(hasattr(config, mark) for mark in self.marks)

    def own_input(self, config, arguments) -> str | None:
        """What an encoder with this config calls its main input, of its forward's arguments; None: it has none."""
        return self.main_input if self.main_input in arguments else None

    def fit_config(self, config, settings: dict):
        """
        The config of an encoder as `settings` want it, a copy where that differs.

        Args:
            settings: by name, those of `self.settings` among others; `…_model` of one that is pretrained.

        Raises:
            ValueError: for what such an encoder cannot be.
        """
        return config

    def follow_part(self, config, part, settings: dict) -> None:
        """
        What of a new encoder's config follows from the part of the processor, in place.

        Args:
            config: its config.
            part: the processor's part, or None.
            settings: those of a recipe, by name.
        """

    def new_fields(self, config: dict) -> dict:
        """The fields of a recipe, of `of_new`, that a new encoder with these fields gets where nobody says them."""
        return {}

    def check_config(self, config, part) -> None:
        """Raises ValueError for a pretrained encoder that does not fit a part that is made of the training rows."""

    # ----------------------------------------------------------------------------------------------------- reading

    def given(self, inputs: dict) -> list[str]:
        """Which of the inputs that stand for all rows were given: the encoder's, or the states that are stored."""
        return [name for name in (self.main_input, *self.instead, self.states) if inputs.get(name) is not None]

    def check(self, adapter, encoder, inputs: dict) -> None:
        """Raises ValueError for inputs of another shape or type than the encoder reads; nothing is computed yet."""
        values = inputs.get(self.main_input)
        if values is not None and (not isinstance(values, Tensor) or values.ndim < 2 or not len(values)):
            raise ValueError(
                f"{self.main_input} is {described(values)}: give numbers [{self.nouns}, …] of one or more."
            )
        self.check_index(inputs)
        self.check_mask(inputs)

    def check_mask(self, inputs: dict) -> None:
        """Raises ValueError for a mask of stored states that has another shape than they."""
        if inputs.get(self.states) is not None:
            check_shape(self.mask, inputs.get(self.mask), inputs[self.states].shape[:2], "one value a token")

    def check_index(self, inputs: dict) -> None:
        """Raises ValueError for what is no index [batch] into the rows."""
        index = inputs.get(self.index)
        if index is None:
            return
        if not isinstance(index, Tensor) or index.ndim != 1:
            raise ValueError(f"{self.index} is {described(index)}: give [batch], which {self.noun} each example has.")
        given = self.given(inputs)
        if given and isinstance(inputs[given[0]], Tensor):
            check_ids(self.index, index, len(inputs[given[0]]), f"the {self.nouns}")

    def without_absent(self, inputs: dict, used: Tensor) -> dict:
        """The inputs with zeros where no example has the row, by used [rows]: its gradients pass through the encoder,
        where zero times what is no number is no number."""
        return {
            name: cut_off(value, used)
            if isinstance(value, Tensor) and value.is_floating_point() and len(value) == len(used)
            else value
            for name, value in inputs.items()
        }

    def prepare(self, encoder, inputs: dict) -> dict:
        """The inputs in the type and place that the encoder wants them in."""
        name = self.main_input
        value = inputs.get(name)
        if value is None or not value.is_floating_point():
            return inputs
        return {**inputs, name: value.to(encoder.dtype)}

    def example(self, config, rows: int = 1) -> dict[str, Tensor]:
        """
        Inputs that an encoder with this config can read, on the meta device where their values do not matter.

        Raises:
            ValueError: where the config does not say their size (`input_shape`, the shape of one row).
        """
        shape = getattr(config, "input_shape", None)
        if shape is None:
            raise ValueError(
                f"{self.config_field} of {config.model_type!r} does not say the shape of one {self.noun}: give it the "
                "field input_shape."
            )
        return {self.main_input: torch.empty(rows, *shape, device="meta")}

    def graph_sizes(self, config) -> dict[str, dict[int, Size]]:
        """The inputs of a graph of an encoder with this config, which reads rows without padding, and which of their
        dimensions, besides the rows, may have any size. An input that a row lacks is ones."""
        return {self.main_input: {}}

    def encoder_inputs(self, encoder, arguments: set[str], inputs: dict) -> dict:
        """Of `forward`'s inputs those of the encoder's own forward."""
        return {name: value for name, value in inputs.items() if name in arguments and value is not None}

    def tokens(self, config, outputs: ModelOutput, inputs: dict) -> tuple[Tensor, int, tuple[int, int] | None]:
        """What an encoder returned → tokens [rows, N, D] with those that are no content first, their number, and the
        grid (H, W) that the others form, if they do."""
        return outputs.last_hidden_state, 0, None

    def token_mask(self, states: Tensor, inputs: dict) -> Tensor:
        """[rows, N] bool: which tokens are real."""
        mask = inputs.get(self.mask)
        if mask is not None and mask.shape == states.shape[:2]:
            return mask.bool()
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)

    def own_pooling(self, encoder, pooled_width: int | None, num_special: int) -> tuple[str, str, bool]:
        """How an encoder's summary is taken where nobody says: with all that it has, without its pooler, and whether
        a token reads only what stands before it."""
        without = "cls" if num_special > 0 else "mean"
        return ("pooler" if pooled_width is not None else without), without, False

    def check_pooling(self, encoder, pooling: str, pooled_width: int | None, num_special: int) -> None:
        """Raises ValueError for a pooling that the encoder cannot give."""
        kind = encoder.config.model_type
        if pooling == "pooler" and pooled_width is None:
            raise ValueError(
                f"{self.pooling_field}='pooler': the encoder {kind!r} has no pooled output; use 'auto' or 'mean'."
            )
        if pooling == "cls" and not self.ordered and not num_special:
            raise ValueError(
                f"{self.pooling_field}='cls': the encoder {kind!r} has no class token; use 'auto' or 'mean'."
            )
        if pooling == "last" and not self.ordered:
            raise ValueError(
                f"{self.pooling_field}='last': {self.called} tokens have no last word; use 'auto', 'cls', 'mean' or "
                "'pooler'."
            )

    def read(
        self, adapter, encoder, inputs: dict, record: dict[str, bool] | None = None
    ) -> tuple[Stream, ModelOutput]:
        """
        Runs the encoder.

        Args:
            adapter: its [`EncoderAdapter`].
            inputs: those of `all_inputs` that were given.
            record: see [`EncoderAdapter.run`].

        Returns:
            The stream of the rows, and what the encoder returned.
        """
        outputs = adapter.run(encoder, self.encoder_inputs(encoder, adapter.arguments, inputs), record)
        return self.stream(adapter, encoder, outputs, inputs), outputs

    def stream(self, adapter, encoder, outputs: ModelOutput, inputs: dict) -> Stream:
        """The stream of what the encoder returned of these inputs."""
        states, num_special, grid = self.tokens(encoder.config, outputs, inputs)
        mask = self.token_mask(states, inputs)
        content = mask.clone()
        content[:, :num_special] = False
        pooled = adapter.pool(outputs, states, mask, content)
        return Stream(states, mask, pooled, mask.any(1), grid, modality=self.name)

    # -------------------------------------------------------------------------------------------------- processing

    def load_part(self, name: str, settings: dict, **hub):
        """
        The part of the processor that belongs to a pretrained encoder.

        Args:
            name: a folder or Hub name.
            settings: of `part_settings` those that were given.
            hub: where its files lie (`revision`, `token`, …).

        Raises:
            ValueError: where there is none; the message says what is missing.
        """
        raise ValueError(f"{self.part} is made of the data, not loaded from {name!r}: give {self.part} itself.")

    def new_part(self, config, settings: dict):
        """The part of the processor for a new encoder with this config; settings: those of a recipe, by name."""
        raise ValueError(f"{self.config_field} needs {self.part}: give a processor that has it.")

    def fit(self, cells, config, settings: dict):
        """
        The part of the processor that the training rows make, where it is `fitted`.

        Args:
            cells: what each row holds, some of which may lack it.
            config: that of the encoder.
            settings: those of a recipe, by name.

        Raises:
            ValueError: where the rows make none.
        """
        raise ValueError(f"{self.part} is not made of rows: give a processor that has it.")

    def check_part(self, part) -> None:
        """Raises ValueError for a part that cannot prepare what an encoder reads."""

    def part_to_dict(self, part) -> dict:
        """A part that is of `part_classes` as processor_config.json holds it."""
        return {f"{self.part}_type": type(part).__name__, **part.to_dict()}

    def part_from_dict(self, fields: dict):
        """The reverse of `part_to_dict`; None for a part that is transformers' to load."""
        fields = dict(fields)
        wanted = fields.pop(f"{self.part}_type", None)
        found = next((own for own in self.part_classes if own.__name__ == wanted), None)
        return None if found is None else found.from_dict(fields)

    def columns_read(self, part) -> list[str]:
        """Of what keeps columns apart (`by_name`) those that a fitted part knows, each with what it holds behind a
        colon (`zip:category`), as `columns` of a table of rows takes them."""
        return []

    @property
    def options(self) -> str:
        """What a processor's call names the arguments that are for this part alone."""
        return f"{self.argument}_kwargs"

    def option_names(self, part) -> set[str]:
        """The arguments that the processor's part takes besides what is to be processed."""
        return set()

    def process(self, part, values, **options) -> dict:
        """
        What a caller of the processor gave → model inputs, a row each.

        Args:
            part: the processor's part of that name; None where there is none.
            values: one or several.

        Raises:
            ValueError: for what is none of it.
        """
        values = values if isinstance(values, (list, tuple)) else [values]
        return self.collate(part, list(values))

    def open(self, cell, content: bytes | None = None):
        """What a cell of a table of rows holds or, of a file, stands for; ValueError where it cannot be read."""
        return cell

    def collate(self, part, values: list, **options) -> dict[str, Tensor]:
        """
        What `open` gave of each row → model inputs, a row each.

        Raises:
            ValueError: for numbers of different shapes, or what is no number.
        """
        try:
            rows = [torch.as_tensor(value, dtype=torch.float32) for value in values]
            return {self.main_input: torch.stack(rows)}
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{self.argument} cannot be brought into one tensor ({error}): give numbers of one shape a row."
            ) from error

    def apart(self, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Model inputs of several rows → those of each, without what made them one batch."""
        return [{self.main_input: row} for row in batch[self.main_input]]

    def together(self, rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The reverse of `apart`."""
        return {self.main_input: torch.stack([row[self.main_input] for row in rows])}

    def made_up(self, config, part, number: int = 0):
        """
        Something that a processor with this part can be given, for models to be tried with: made up, the same for each
        number, of other sizes where it has any; a tensor, a text, or a dict of texts and numbers.

        Args:
            config: that of the encoder.
            part: the processor's part; None where it has none.
        """
        shape = self.example(config)[self.main_input].shape[1:]
        return torch.randn(shape, generator=torch.Generator().manual_seed(number))

    def fields_of(self, part) -> dict[str, list[str] | None]:
        """Of what keeps columns apart (`by_name`) the names of these, with what may be chosen; None: any number."""
        return {}

    def code_of(self, part) -> str:
        """What `code` says, where that is known better from the processor's part."""
        return self.code

    def cell(self, cells: dict):
        """
        What a row holds of it, of a table whose cells hold the numbers themselves.

        Args:
            cells: what stands in each column that is of it, by the column's name; several only where it `joins`.

        Returns:
            Lists of numbers in lists; None where the row has none of it.

        Raises:
            ValueError: for what is no numbers.
        """
        (value,) = cells.values()
        return numbers_in(value)

    def names_file(self, cell) -> bool:
        """Whether a row's cell is the path of a file, whose content counts."""
        return self.in_files

    def lacks(self, cell) -> bool:
        """Whether a row's cell says that the row has none: nothing, or no numbers and no file's name."""
        return cell is None or (isinstance(cell, (str, bytes, list, tuple)) and len(cell) == 0)

    def readable(self, cell) -> bool:
        """Whether an encoder can be given what a row's cell holds."""
        return not self.lacks(cell) or (self.reads_empty and cell is not None)

    # -------------------------------------------------------------------------------------------------- explanations

    def parts(self, part, config, cell, inputs: dict[str, Tensor]) -> Parts:
        """
        How an explanation divides one input; here along the first axis of the encoder's main input, each place being a
        part in whose stead the mean over all of them may stand.

        Args:
            part: the processor's part, or None.
            config: that of the encoder.
            cell: what the row holds, as `open` takes it.
            inputs: what was made of it, [1, …].
        """
        value = inputs[self.main_input][0]
        places = torch.arange(len(value)).view(-1, *[1] * (value.ndim - 1))
        blank = value.float().mean(0, keepdim=True).to(value.dtype).expand_as(value)
        return Parts((numbered("part", len(value)),), {self.main_input: places}, {self.main_input: blank})
