"""What `scripts/test_common.sh` found out: transformers' own common tests over UME models, judged, and their table.

An outcome is that of one test: its name, `passed`, `failed` or `skipped`, and what its failures or its skips say; a
test of several parts says several things.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import yaml

from training_ume.report.markdown import markdown

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
NOT_APPLICABLE = "not applicable"
GROUPS = {"UMEConfig": "configs", "UMEProcessor": "processors"}
PAIRS = {"BERT_ViT": ("bert", "vit"), "DistilBERT_ResNet": ("distilbert", "resnet"), "LSTM_VGG": ("lstm", "vgg")}
HEADS = ("ume", "concat", "co_attention", "early_input")


@dataclass(frozen=True)
class Rule:
    """One line of the table of what does not apply.

    Args:
        test: pattern (as of file names) of names of tests, `CLASS::test_name`.
        error: regular expression that has to be found in all that the test says; any other failure is a failure.
        reason: why it does not apply, for a reader.
    """

    test: str
    error: str
    reason: str

    def fits(self, outcome: Outcome) -> bool:
        return fnmatch.fnmatchcase(outcome.name, self.test) and all(
            re.search(self.error, text) is not None for text in outcome.texts
        )


@dataclass(frozen=True)
class Outcome:
    name: str
    result: str
    texts: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "; ".join(dict.fromkeys(self.texts))


def read_rules(path: str | Path) -> list[Rule]:
    """
    The table of what does not apply: a YAML list of `test`, `error` and `reason`.

    Raises:
        ValueError: for a line that is not of these three, each a string with something in it, or a pattern that is
            there twice.
    """
    rules, names = [], {"test", "error", "reason"}
    for i, line in enumerate(yaml.safe_load(Path(path).read_text(encoding="utf-8")) or (), 1):
        if not isinstance(line, dict) or line.keys() != names or not all(
            isinstance(value, str) and value.strip() for value in line.values()
        ):  # fmt: skip
            raise ValueError(f"{path}, entry {i}: it needs {', '.join(sorted(names))}, each a text, and has {line!r}.")
        rule = Rule(**{name: " ".join(value.split()) for name, value in line.items()})
        try:
            re.compile(rule.error)
        except re.error as error:
            raise ValueError(f"{path}, entry {i}: {rule.error!r} is no regular expression ({error}).") from error
        if any((rule.test, rule.error) == (other.test, other.error) for other in rules):
            raise ValueError(f"{path}, entry {i}: {rule.test!r} is there twice: keep one.")
        rules.append(rule)
    return rules


def group(name: str) -> str:
    """Which row of the table a test belongs to: its pair of encoders, the configs or the processors."""
    row = name.partition("::")[0]
    for ending, found in GROUPS.items():
        if row.endswith(ending):
            return found
    return next(pair for pair in PAIRS if row.startswith(f"{pair}_")).replace("_", " × ")


def judge(outcomes: list[Outcome], rules: list[Rule]) -> dict:
    """
    Counts the outcomes; a failure or a skip for which there is a rule does not apply, for the rule's reason.

    Returns:
        `dict`: `groups` (counts a group), `not_applicable` (a row a reason: who gives it, which tests, how often),
        `failures` (name and text) and `unused` (patterns of rules that no outcome needed, which is an error).
    """
    groups: dict[str, Counter] = {}
    reasons: dict[tuple[str, str], Counter] = defaultdict(Counter)
    failures, used = [], set()
    for outcome in outcomes:
        result = outcome.result
        if result != PASSED:
            rule = next((rule for rule in rules if rule.fits(outcome)), None)
            test = outcome.name.partition("::")[2]
            if rule is not None:
                used.add(rule)
                reasons["this project", rule.reason][test] += 1
            elif result == SKIPPED:
                reasons["transformers", outcome.text][test] += 1
            else:
                failures.append({"test": outcome.name, "error": outcome.text[:300]})
            result = NOT_APPLICABLE if rule is not None or result == SKIPPED else FAILED
        groups.setdefault(group(outcome.name), Counter({PASSED: 0, FAILED: 0, NOT_APPLICABLE: 0}))[result] += 1
    return {
        "groups": {name: dict(counts) for name, counts in groups.items()},
        "not_applicable": [
            {"by": by, "reason": reason, "tests": dict(sorted(tests.items()))}
            for (by, reason), tests in sorted(reasons.items(), key=lambda item: (item[0][0], -item[1].total()))
        ],
        "failures": failures,
        "unused": [rule.test for rule in rules if rule not in used],
    }


def common_tests_table(results: dict) -> str:
    """Counts a group, the failures, and why the others do not apply."""
    names = (PASSED, FAILED, NOT_APPLICABLE)
    groups = {**results["groups"], "**all**": Counter()}
    for counts in results["groups"].values():
        groups["**all**"].update(counts)
    rows = [
        [name, f"{sum(counts[name] for name in names):,}", *(f"{counts[name]:,}" for name in names)]
        for name, counts in groups.items()
    ]
    reasons = [
        [_cell(row["reason"]), row["by"], f"{sum(row['tests'].values()):,}", _tests(row["tests"])]
        for row in results["not_applicable"]
    ]
    hardware, versions = results["environment"]["hardware"], results["environment"]["versions"]
    return "\n".join(
        [
            markdown(["", "tests", *names], rows, right=(1, 2, 3, 4)),
            *(["", *(f"- **Failed**: `{row['test']}`: {_cell(row['error'])}" for row in results["failures"])]
              if results["failures"] else []),
            "",
            "Why a test does not apply, as transformers' tests themselves say it, or as this project's table does:",
            "",
            markdown(["reason", "given by", "tests", "which"], reasons, right=(2,)),
            "",
            f"`bash scripts/test_common.sh`: the tests of transformers {results['transformers']}, torch "
            f"{versions['torch']}, Python {versions['python']}, on {hardware['cpu']}."
            + "".join(f" Run once more after a change: `{test}`." for test in results.get("run_again", ())),
        ]
    )  # fmt: skip


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _tests(tests: dict[str, int]) -> str:
    """The tests' names; of many, the first and how many more."""
    names = [f"`{name}`" for name in tests]
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])
