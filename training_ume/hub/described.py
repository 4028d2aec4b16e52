"""What a card says of the data of a run: what is known of the data set, what the run saw, what a person said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from training_ume.data.sources.table import SOURCES
from training_ume.hub.data_sets import DATA_SETS, DataSet
from training_ume.hub.read import About, Run, _from_dict

NOBODY_SAID = "What the data may be used for, nobody has said here."


def described(run: Run, about: About) -> DataSet:
    """
    The data set of a run.

    Raises:
        ValueError: for a name in the about file that no data set has, and fields that there are not.
    """
    if isinstance(about.data, dict):
        return _from_dict(DataSet, {**dataclasses.asdict(_found(run)), **about.data}, "`data`")
    if about.data is None:
        return _found(run)
    if about.data not in DATA_SETS:
        raise ValueError(
            f"The data {about.data!r} are not known: give `data:` in the about file as one of {', '.join(DATA_SETS)}, "
            f"or what is to be said of them ({', '.join(f.name for f in dataclasses.fields(DataSet))}), or leave it "
            "out."
        )
    return DATA_SETS[about.data]


def _found(run: Run) -> DataSet:
    """What the run itself knows."""
    arguments, recipe = run.results["arguments"]["data"], run.results["recipe"]
    what = "Questions and answers" if run.called == "questions" else "Rows"
    about = f"{what}{' about pictures' if run.of_images and run.called == 'questions' else ''}"
    if arguments.get("data"):
        return _of_table(arguments["data"], (run.results.get("understood") or {}).get("train") or {}, what)
    source = arguments["source"]
    if source == "hub":
        name = arguments["dataset_name"]
        if Path(name).is_dir():
            return _nameless(Path(name).name, about)
        return DATA_SETS.get(name) or _on_hub(name, what)
    known = source if source == "easy_vqa" else next((key for key in DATA_SETS if recipe.startswith(key)), None)
    return _nameless(recipe, about) if known is None else DATA_SETS[known]


def _of_table(names: list[str], understood: dict, what: str) -> DataSet:
    judged = {source.title: source for source in SOURCES.values()}.get(understood.get("source"))
    if judged is not None:
        if judged.name in DATA_SETS:
            return DATA_SETS[judged.name]
        return DataSet(judged.title, f"[{judged.title}]({judged.url}).", f"{judged.title}: {judged.licence}.")
    first = str(names[0])
    if "/" in first and first.count("/") == 1 and not Path(first).suffix and not Path(first).exists():
        return _on_hub(first, what)
    in_memory = "rows in memory" in first
    name = "a table of its maker" if in_memory else Path(understood.get("name") or first).name
    facts = [understood.get("container"), f"{understood['rows']:,} rows" if understood.get("rows") else None]
    facts = ", ".join(fact for fact in facts if fact)
    table = "A table of the model's maker" + ("" if in_memory else f", `{name}`") + (f" ({facts})" if facts else "")
    return DataSet(name, f"{table}, which nobody has described here.", NOBODY_SAID)


def _on_hub(name: str, what: str) -> DataSet:
    about = f"{what} from [{name}](https://huggingface.co/datasets/{name})."
    return DataSet(name, about, "The data keep the licence that their page states.", hub_id=name)


def _nameless(name: str, what: str) -> DataSet:
    return DataSet(name, f"{what}, `{name}`, which nobody has described here.", NOBODY_SAID)
