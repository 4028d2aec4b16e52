"""Tables: columns of numbers and of categories, and what an encoder is given of them."""

import json
import os

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .cells_ume import missing
from .modality_base_ume import Modality, Setting
from .parts_ume import Axis, Parts
from .scalers_ume import TableScaler
from .streams_ume import check_ids, check_shape, described


class Table(Modality):
    """
    Rows of a table: this project's FT-Transformer or multi-layer perceptron.

    A cell is a dict, column: value. What is missing has a token of its own; a row of which all is missing has none.
    """

    name = "table"
    noun = "table row"
    called = "table"
    inputs = ("table_numbers", "table_categories")
    part = "table_scaler"
    part_classes = (TableScaler,)
    fitted = True
    own_encoder = "ume_ft_transformer"
    marks = ("category_sizes",)
    reads = "a model that reads tables, ume_ft_transformer or ume_table_mlp"
    hub_classes, hub_numbers = "tabular-classification", "tabular-regression"
    code = '{"column": 1.0}'
    joins = by_name = True
    settings = (
        Setting("table_quantiles", bool, "Take the numbers of a table by their rank among the training rows, brought "
                "to a normal distribution, instead of by deviations from their mean.", False),
        Setting("table_min_count", int, "Categories of fewer training rows are one, the unknown.", 1),
    )  # fmt: skip

    def columns_read(self, part):
        return [*(f"{name}:number" for name in part.numbers), *(f"{name}:category" for name in part.categories)]

    # ----------------------------------------------------------------------------------------------------- encoders

    def follow_part(self, config, part, settings):
        if hasattr(config, "category_sizes"):
            config.num_numbers, config.category_sizes = len(part.numbers), part.category_sizes

    def check_config(self, config, part):
        has = (getattr(config, "num_numbers", None), list(getattr(config, "category_sizes", ())))
        wants = (len(part.numbers), part.category_sizes)
        if has != wants:
            raise ValueError(
                f"The table encoder {config.model_type!r} reads {has[0]} numbers and {len(has[1])} columns of "
                f"categories ({has[1]} ids), and the data have {wants[0]} and {len(wants[1])} ({wants[1]}): give "
                "another encoder, or the columns that it was trained with."
            )

    def check(self, adapter, encoder, inputs):
        numbers, ids = inputs.get(self.main_input), inputs.get("table_categories")
        if numbers is not None:
            config = encoder.config
            count, sizes = getattr(config, "num_numbers", None), getattr(config, "category_sizes", [])
            if (
                not isinstance(numbers, Tensor)
                or not numbers.is_floating_point()
                or numbers.ndim != 2
                or not len(numbers)
                or (count is not None and numbers.shape[1] != count)
            ):
                raise ValueError(
                    f"{self.main_input} is {described(numbers)}: give floating-point numbers [rows, {count}] of one "
                    "row or more, NaN where one is missing."
                )
            if sizes and ids is None:
                raise ValueError(
                    f"table_numbers came without table_categories: this model reads {len(sizes)} columns of "
                    "categories; give their ids [rows, columns], 0 where one is missing."
                )
            check_shape("table_categories", ids, (len(numbers), len(sizes)), "one id a column")
            for column, size in enumerate(sizes):
                check_ids("table_categories", ids[:, column], size, f"the categories of column {column}")
        self.check_index(inputs)
        self.check_mask(inputs)

    def example(self, config, rows=1):
        found = {self.main_input: torch.empty(rows, getattr(config, "num_numbers", 1), device="meta")}
        columns = len(getattr(config, "category_sizes", ()))
        return {**found, "table_categories": torch.zeros(rows, columns, dtype=torch.long)}

    def graph_sizes(self, config):
        categories = {"table_categories": {}} if getattr(config, "category_sizes", None) else {}
        return {self.main_input: {}, **categories}

    def tokens(self, config, outputs: ModelOutput, inputs: dict):
        states = outputs.last_hidden_state
        columns = getattr(config, "num_numbers", 0) + len(getattr(config, "category_sizes", ()))
        # A token a column, and one that sums them up in front; or the row as one token, which sums up nothing else.
        return states, (1 if states.shape[1] == columns + 1 and columns else 0), None

    # --------------------------------------------------------------------------------------------------- processing

    def fit(self, cells, config, settings):
        min_count = settings.get("table_min_count") or 1
        return TableScaler.fit(cells, bool(settings.get("table_quantiles")), min_count)

    def made_up(self, config, part, number=0):
        """A row as the training rows were; every other one lacks its first column."""
        spread = torch.randn(len(part.numbers), generator=torch.Generator().manual_seed(number)).tolist()
        row = {
            name: float(f"{mean + deviation * z:.4g}")
            for name, mean, deviation, z in zip(part.numbers, part.means, part.deviations, spread, strict=True)
        }
        row |= {name: known[number % len(known)] if known else None for name, known in part.categories.items()}
        return {**row, part.columns[0]: None} if number % 2 and len(row) > 1 else row

    def fields_of(self, part):
        return {**dict.fromkeys(part.numbers), **part.categories}

    def code_of(self, part):
        return self.code if part is None else json.dumps(self.made_up(None, part), ensure_ascii=False)

    def lacks(self, cell):
        if cell is None or not isinstance(cell, dict):
            return not cell
        return all(map(missing, cell.values()))

    def readable(self, cell):
        return not self.lacks(cell)

    def open(self, cell, content=None):
        if not isinstance(cell, dict):
            raise ValueError(
                f"A row of a table is a dict, column: value, not {str(cell)[:60]!r} ({type(cell).__name__})."
            )
        return cell

    def collate(self, part, values):
        """Dicts → `table_numbers` [B, F] with NaN where one is missing, and `table_categories` [B, G]."""
        if part is None:
            raise ValueError(f"There is no {self.part}: give the processor one, as TableScaler.fit makes it.")
        read = [part(value) for value in values]
        shape = (len(read), len(part.numbers))
        return {
            self.main_input: torch.tensor([numbers for numbers, _ in read], dtype=torch.float32).reshape(shape),
            "table_categories": torch.tensor([ids for _, ids in read], dtype=torch.long).reshape(
                len(read), len(part.categories)
            ),
        }

    def process(self, part, values, **options):
        """
        Rows of a table → model inputs.

        Args:
            values: one row (a dict, column: value), several, a dict of columns, or a frame. A column that a row lacks
                is missing in it.
        """
        rows = rows_of(values)
        empty = next((number for number, row in enumerate(rows) if self.lacks(row)), None)
        if empty is not None:
            raise ValueError(
                f"Row number {empty} of the table holds nothing: leave it out, or give one value at least."
            )
        return self.collate(part, [self.open(row) for row in rows])

    # -------------------------------------------------------------------------------------------------- explanations

    def parts(self, part, config, cell, inputs):
        """Columns; one that is taken away is missing."""
        numbers = len(part.numbers)
        of = {self.main_input: torch.arange(numbers), "table_categories": numbers + torch.arange(len(part.categories))}
        blank = {
            self.main_input: torch.full((numbers,), torch.nan),
            "table_categories": torch.zeros_like(of["table_categories"]),
        }
        labels = [f"{name} = {_shown(cell.get(name))}" for name in part.columns]
        return Parts((Axis("column", labels),), of, blank)


def _shown(value) -> str:
    return "(missing)" if missing(value) else f"{value:g}" if isinstance(value, float) else str(value)


def rows_of(values) -> list[dict]:
    """
    What a caller gives as a table → its rows.

    Raises:
        ValueError: for what is none, or has columns of different lengths.
    """
    if isinstance(values, (str, os.PathLike)):
        raise ValueError(f"table is the text {str(values)[:60]!r}: give a dict, column: value, or a list of such.")
    if hasattr(values, "to_dicts"):  # polars
        values = values.to_dicts()
    elif hasattr(values, "to_dict") and hasattr(values, "columns"):  # pandas
        values = values.to_dict("records")
    if isinstance(values, dict):
        listed = {name: list(value) for name, value in values.items() if _is_list(value)}
        if not listed:
            return [values]
        lengths = {name: len(value) for name, value in listed.items()}
        if len(listed) < len(values) or len(set(lengths.values())) > 1:
            raise ValueError(
                f"The columns of the table have different lengths: {lengths or 'none'}. Give one row each."
            )
        count = next(iter(lengths.values()))
        values = [{name: listed[name][row] for name in listed} for row in range(count)]
    rows = list(values)
    if not rows:
        raise ValueError("table is empty: give one row or more.")
    return rows


def _is_list(value) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1
