"""Numbers as tables hold them: written in text, with a comma or a point, in lists that are written out, or missing."""

import json
import math
import re

import numpy as np

# What stands in a cell that holds nothing.
MISSING = frozenset({"", "nan", "null", "na", "n/a", "<na>"})
# What stands in its place among numbers, while it may be a word among words.
NO_NUMBER = frozenset({*MISSING, "none", "-", "?", "."})
# No 007, which is a name.
NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
# Thousands, set apart: 1,234,567 or 1.234.567 or 1 234 567.
THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:([,. \u00a0\u202f'])[0-9]{3})(?:\1[0-9]{3})*")


def missing(value, words=MISSING) -> bool:
    """Whether a cell holds nothing, whatever it is written as."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, str):
        return value.strip().lower() in words
    return isinstance(value, (float, np.floating)) and math.isnan(value)


def decimal_sign(texts) -> str | None:
    """
    Whether numbers that are written in a column have a decimal comma or a point.

    Returns:
        `"."` or `","`; None where they leave it open, as 1,234 alone does.
    """
    found = {_sign(text.strip()) for text in texts}
    for sign in (",", "."):
        if sign in found:
            return sign
    return None if None in found else "."


def _sign(text: str) -> str | None:
    """What one number says of it; an empty text where both would do, None where it is one or the other."""
    comma, point = text.rfind(","), text.rfind(".")
    if comma < 0:
        # 1.234.567 has no decimals, and so a comma would stand before them; 1.234 may have.
        return "," if text.count(".") > 1 else "" if point < 0 or THOUSANDS.fullmatch(text) else "."
    if point >= 0:
        return "," if comma > point else "."
    if text.count(",") > 1:
        return "."
    return None if THOUSANDS.fullmatch(text) else ","


def as_number(value, sign: str | None = None) -> float | None:
    """
    The number in a cell, None where there is none.

    Args:
        value: a number, a truth value (1 or 0) or a text.
        sign: which sign stands before decimals, see `decimal_sign`; None: what this number says itself.

    Raises:
        ValueError: for what is no number, is infinite, or may be two.
    """
    if missing(value, NO_NUMBER):
        return None
    if isinstance(value, str):
        text = value.strip().replace("\u2212", "-")
        if INFINITE.fullmatch(text):
            raise ValueError(f"{value!r} is infinite: write a number, or leave the cell empty where there is none")
        if "," in text or text.count(".") > 1:
            sign = _sign(text) if sign is None else sign
            if sign is None:
                raise ValueError(
                    f"{value!r} may be a thousand or a decimal: write it without the comma, or with a point"
                )
            text = _with_point(text, sign)
        elif sign == "," and THOUSANDS.fullmatch(text):
            text = text.replace(".", "")
        if not NUMBER.fullmatch(text):
            raise ValueError(f"{_short(value)} is no number")
        value = float(text)
    try:
        value = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_short(value)} is no number") from error
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise ValueError(f"{value} is infinite: write a number, or leave the cell empty where there is none")
    return value


def _with_point(text: str, sign: str) -> str:
    other = "." if sign == "," else ","
    whole, _, rest = text.partition(sign)
    if other in whole and THOUSANDS.fullmatch(whole):
        whole = whole.replace(other, "")
    return whole if not rest else f"{whole}.{rest}"


def numbers_in(value):
    """
    Numbers in lists, however deep: of lists, arrays, or lists that are written out in a text ("[1, 2]", "1 2", "1;2").

    Returns:
        Lists of floats (NaN where one is missing), or an array's rows as arrays; None where there is nothing.

    Raises:
        ValueError: for what is none.
    """
    if value is None or missing(value):
        return None
    if isinstance(value, str):
        value = _written_out(value)
    if hasattr(value, "__array__") or isinstance(value, (list, tuple)):
        array = as_array(value)
        return array.tolist() if array.ndim < 2 else list(array)
    return [math.nan if (found := as_number(value)) is None else found]


def as_array(values) -> np.ndarray:
    """
    Numbers in lists → an array of float64, NaN where one is missing.

    Raises:
        ValueError: for lists of different lengths, what is no number, or infinite ones.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        try:
            array = np.asarray(_each(values), dtype=np.float64)
        except (TypeError, ValueError) as error:
            said = str(error)
            ragged = "inhomogeneous" in said or "sequence" in said
            reason = "the lists in it have different lengths" if ragged else said
            raise ValueError(f"{_short(values)} is no array of numbers: {reason}") from error
    if np.isinf(array).any():
        raise ValueError(
            "there are infinite numbers in it: write a number, or leave it empty (null) where there is none"
        )
    return array


def _each(values):
    if isinstance(values, (list, tuple)) or (hasattr(values, "__array__") and getattr(values, "ndim", 0)):
        return [_each(value) for value in values]
    found = as_number(values)
    return math.nan if found is None else found


def _written_out(text: str):
    """The list that a text writes out."""
    inner = text.strip()
    if inner[:1] in "[(":
        plain = re.sub(r"\b(?:nan|none|null|NaN|None|NA)\b", "null", inner.replace("(", "[").replace(")", "]"))
        try:
            return json.loads(re.sub(r",\s*\]", "]", plain))
        except (ValueError, RecursionError):
            # As numpy prints it: [1. 2. 3.]
            try:
                return json.loads(
                    re.sub(r"(?<=[\w.\]])\s+(?=[\w.\[+-])", ",", re.sub(r"(\d)\.(?!\d)", r"\1.0", plain))
                )
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{_short(text)} is no list of numbers: write it as [1.5, 2, null]") from error
    parts = inner.split(";") if ";" in inner else inner.split()
    if len(parts) == 1 and inner.count(",") > 1:
        parts = inner.split(",")
    return [as_number(part) for part in parts]


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
