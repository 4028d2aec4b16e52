"""What a page says of mistakes, and how long and for how many it waits."""

from __future__ import annotations

from contextlib import contextmanager
from html import escape

QUEUE = 32  # calls that wait; who comes later is told so
HOUR = 3600  # seconds after which uploads and visits are forgotten


@contextmanager
def sentences():
    """What a visitor did wrong is said on the page as the ValueError says it; any other error is logged."""
    import gradio as gr

    try:
        yield
    except ValueError as error:
        raise gr.Error(escape(str(error)), duration=None, print_exception=False) from None
    except Exception as error:
        raise gr.Error("The page made a mistake, which is not yours: its log says more.", duration=None) from error
