"""A card as a page to look at before anybody else does: one HTML file with everything in it."""

from __future__ import annotations

import base64
import html
import os
import re
import sys
import webbrowser
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
body { overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; }
th, td { overflow-wrap: normal; border: 1px solid var(--line); padding: .3rem .6rem; vertical-align: top; }
pre { border: 1px solid var(--line); border-radius: .4rem; padding: .8rem; overflow-x: auto; }
code { font: .9em ui-monospace, monospace; } img { max-width: 100%; }
.tags { display: flex; flex-wrap: wrap; gap: .4rem; }
.note { color: color-mix(in srgb, currentColor 65%, transparent); }
.tags span { border: 1px solid var(--line); border-radius: 1rem; padding: .1rem .7rem; font-size: .85rem; }
"""


def preview(files: dict[str, bytes]) -> str:
    """
    The page of a card.

    Args:
        files: what `render_card` returned; the pictures go into the page.
    """
    text = files["README.md"].decode()
    _, metadata, body = text.split("---\n", 2)
    fields = yaml.safe_load(metadata)
    page = MarkdownIt("commonmark", {"html": False}).enable("table").render(body)
    page = page.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    page = re.sub(r'src="([^":]+)"', lambda found: f'src="{_inline(files, html.unescape(found[1]))}"', page)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(str(fields.get('model_name') or _title(body)))}</title>\n<style>{STYLE}</style>\n"
        f'<p class="note">A preview of README.md. The Hub shows these beside the title:</p>\n{_tags(fields)}\n{page}'
        "</html>\n"
    )


def _title(body: str) -> str:
    return next((line[2:] for line in body.splitlines() if line.startswith("# ")), "A model card")


def _tags(fields: dict) -> str:
    shown = []
    for name in ("pipeline_tag", "library_name", "license", "language", "datasets", "base_model", "tags"):
        value = fields.get(name)
        for each in value if isinstance(value, list) else [value] if value else []:
            shown.append(f"<span>{html.escape(f'{name}: {each}')}</span>")
    return '<div class="tags">' + "".join(shown) + "</div>"


def _inline(files: dict[str, bytes], name: str) -> str:
    if name not in files:
        return html.escape(name)
    return f"data:image/png;base64,{base64.b64encode(files[name]).decode()}"


def show(path: Path) -> bool:
    """Opens a page in the browser; False where there is none to open it in."""
    screen = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))
    return screen and webbrowser.open(path.absolute().as_uri())
