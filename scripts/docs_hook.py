"""For mkdocs: shows what docstrings write in Hugging Face's way, as transformers' own documentation does.

Types are Markdown there (`int`, *optional*), and classes are mentioned as [`UMEModel`].
"""

import re


def on_page_content(html: str, **_) -> str:
    html = re.sub(r"<code>(`[^<]*|\*optional\*)</code>", lambda found: as_html(found[1]), html)
    return re.sub(r"\[(<code>[\w.]+</code>)\]", r"\1", html)


def as_html(markdown: str) -> str:
    """Code and emphasis of one line; everything else is HTML already."""
    code = re.sub(r"`+([^`]+)`+", r"<code>\1</code>", markdown)
    return re.sub(r"\*(\w+)\*", r"<em>\1</em>", code)
