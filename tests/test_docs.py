"""README.md and docs/: short enough to be read, no dead link, one spelling of commands, every page named."""

import ast
import importlib
import json
import re
from copy import deepcopy
from pathlib import Path

import pytest

from training_ume.moved import MOVED
from training_ume.report.glance import SHOWN, claim, glance_table

ROOT = Path(__file__).parent.parent
OURS = ("ume", "modeling_ume", "configuration_ume", "training_ume", "metrics")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
names = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def without_code(text: str) -> str:
    """A page without its code: what stands there is no link and no heading."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(path: Path) -> set[str]:
    """What can stand behind # in a link to a page: its headings, as GitHub and mkdocs write them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {
        re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())
        for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    }


def dead_links(page: Path) -> list[str]:
    text = without_code(page.read_text(encoding="utf-8"))
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<img[^>]* src=\"([^\"]+)\"", text):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        # The site holds what lies in docs/ alone.
        leads_out = page.parent.name == "docs" and page.parent.resolve() not in path.resolve().parents
        if not path.exists() or leads_out or (anchor and anchor not in anchors(path)):
            dead.append(target)
    return dead


@names
def test_every_link_leads_to_a_file_and_a_heading(page):
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path):
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    (tmp_path / "README.md").touch()
    page.write_text(
        "# A page\n[0](../README.md) [1](#a-page) [2](page.md#a-page) [3](https://x.org) [4](absent.md) [5](#none) "
        "`[6](no.md)`"
    )
    assert dead_links(page) == ["../README.md", "absent.md", "#none"]


@names
def test_commands_have_one_spelling(page):
    """`ume train`, never the file that it is in; scripts that only maintainers run have no other name."""
    kept = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {
        "arena", "ask", "cache_features", "card", "compare", "demo", "evaluate", "explain", "export", "publish",
        "reproduce_thesis", "shard_data", "train",
    }  # fmt: skip
    named = set(re.findall(r"scripts/(\w+)\.py", page.read_text(encoding="utf-8")))
    assert named <= kept


def imports_in(page: Path) -> list[tuple[str, str | None]]:
    """(module, name) of everything of ours that a page imports in its Python blocks or documents with `:::`."""
    text, found = page.read_text(encoding="utf-8"), []
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                found += [(node.module, alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                found += [(alias.name, None) for alias in node.names]
    found += [tuple(name.rsplit(".", 1)) for name in re.findall(r"^::: (\S+)", text, re.MULTILINE)]
    return [(module, name) for module, name in found if module.split(".")[0] in OURS]


def test_what_pages_import_is_where_they_say():
    imports = {pair for page in PAGES for pair in imports_in(page)}
    assert ("modeling_ume", "UMEProcessor") in imports
    for module, name in sorted(imports, key=str):  # of `import ume` the name is None
        assert module not in old_modules(), f"{module} has moved: say where it is now"
        loaded = importlib.import_module(module)
        assert name is None or hasattr(loaded, name), f"{module} has no {name}"


def old_modules() -> set[str]:
    return {f"training_ume.{name}" for name in MOVED} - {
        f"training_ume.{path.name}" for path in (ROOT / "training_ume").iterdir() if path.is_dir()
    }


def test_files_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./]+/[\w./]*)`", text)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_is_short_and_has_the_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    assert "\nbash scripts/quickstart.sh" in readme
    assert "\nbash scripts/test.sh" in readme
    tables = re.findall(r"(?:^\|.*\n)+", readme, re.MULTILINE)
    assert len(tables) == 1
    assert len(tables[0].splitlines()) - 2 <= 8


def test_every_page_is_named_in_the_menu_and_by_a_page_that_the_start_names():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    start = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in menu, page.name
        assert page.name == "index.md" or f"({page.name})" in start, page.name


def results() -> list[dict]:
    stems = ("easy_vqa", "easy_vqa_heads", "arena_easy_vqa", "arena_daquar")
    return [json.loads((ROOT / "results" / f"{stem}.json").read_text(encoding="utf-8")) for stem in stems]


def test_the_table_of_the_readme_has_the_scores_of_the_results_files():
    quickstart, heads, drawings, photographs = results()
    rows = dict(zip(SHOWN, glance_table(quickstart, heads, drawings, photographs).splitlines()[2:], strict=True))
    [concat] = [row for row in photographs["rows"] if row["name"] == "concat"]
    assert rows["concat"].count("▼") == 2
    assert f"| {concat['exact_match']['mean']:.1f} ± {concat['exact_match']['sd']:.1f} ▼ |" in rows["concat"]
    assert "▼" not in rows["ume"]
    assert "▲" not in rows["product"]  # ahead, but inside the interval


def test_the_claim_names_who_is_there_too_and_is_refused_where_another_head_leads():
    quickstart, heads, drawings, photographs = results()
    assert "`ban`" in claim(quickstart, heads, drawings, photographs)
    alone = {**heads, "comparison": [row for row in heads["comparison"] if row["vqa_accuracy"]["mean"] < 99]}
    assert "It does not end higher" not in claim(quickstart, alone, drawings, photographs)
    overtaken = deepcopy(drawings)
    overtaken["rows"][-1]["vqa_accuracy"]["mean"] = 100.0
    with pytest.raises(ValueError, match="leads its arena"):
        claim(quickstart, heads, overtaken, photographs)
