"""What a config of one of this project's own encoders may say of its sizes."""

from transformers import PretrainedConfig


def check_sizes(config: PretrainedConfig, *fields: str, least: int = 1) -> None:
    """Raises ValueError for a field that is no whole number of `least` or more, or no list of such."""
    for field in fields:
        value = getattr(config, field)
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) or not isinstance(one, int) or one < least for one in values) or not values:
            what = "hold whole numbers" if isinstance(value, list) else "be a whole number"
            if isinstance(value, list) and not values:
                raise ValueError(f"{field}={value!r} is impossible: it must hold one number or more.")
            raise ValueError(f"{field}={value!r} is impossible: it must {what} of {least} or more.")


def check_dropout(config: PretrainedConfig, *fields: str) -> None:
    """Raises ValueError for a dropout outside of [0, 1)."""
    for field in fields or ("dropout",):
        value = getattr(config, field)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ValueError(f"{field}={value!r} is impossible: a dropout lies in [0, 1).")
