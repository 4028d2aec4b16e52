"""How outcomes of transformers' common tests are judged; the table of what does not apply is well-formed."""

import importlib.util
from pathlib import Path

import pytest

from training_ume.report.common_tests import (
    FAILED,
    PASSED,
    SKIPPED,
    Outcome,
    Rule,
    common_tests_table,
    judge,
    read_rules,
)

ROOT = Path(__file__).parent.parent
RULE = Rule("BERT_ViT_*::test_export*", "FakeTensor", "It has no fixed size.")


def outcome(result: str, text: str = "", test: str = "test_export_static", row: str = "ume_UMEModel") -> Outcome:
    return Outcome(f"BERT_ViT_{row}::{test}", result, (text,) if text else ())


def test_the_table_of_what_does_not_apply_is_well_formed():
    rules = read_rules(ROOT / "tests" / "common_not_applicable.yaml")
    assert all("::test_" in rule.test for rule in rules)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("- {test: a, error: b}", "entry 1: it needs"),
        ("- {test: a, error: b, reason: ' '}", "entry 1: it needs"),
        ("- {test: a, error: '(', reason: c}", "no regular expression"),
        ("- {test: a, error: b, reason: c}\n- {test: a, error: b, reason: d}", "entry 2: 'a' is there twice"),
    ],
)
def test_a_table_that_could_hide_something_is_refused(tmp_path, line, message):
    (tmp_path / "rules.yaml").write_text(line)
    with pytest.raises(ValueError, match=message):
        read_rules(tmp_path / "rules.yaml")


def test_a_rule_excuses_the_failure_that_it_names_and_no_other():
    results = judge([outcome(FAILED, "a FakeTensor"), outcome(FAILED, "KeyError: 'a'")], [RULE])
    assert results["groups"] == {"BERT × ViT": {"passed": 0, "failed": 1, "not applicable": 1}}
    assert [row["error"] for row in results["failures"]] == ["KeyError: 'a'"]
    assert results["not_applicable"][0]["reason"] == RULE.reason


def test_a_rule_has_to_fit_every_part_of_a_test():
    parts = Outcome("BERT_ViT_ume_UMEModel::test_export", FAILED, ("a FakeTensor", "KeyError"))
    results = judge([parts], [RULE])
    assert [row["error"] for row in results["failures"]] == ["a FakeTensor; KeyError"]
    assert results["unused"] == [RULE.test]


@pytest.mark.parametrize("outcomes", [[], [outcome(PASSED)], [outcome(FAILED, "KeyError")]])
def test_a_rule_that_nothing_needed_is_reported(outcomes):
    assert judge(outcomes, [RULE])["unused"] == [RULE.test]


def test_a_skip_of_transformers_counts_with_its_own_reason():
    results = judge([outcome(SKIPPED, "test requires MPS"), outcome(PASSED, row="UMEProcessor")], [])
    assert results["not_applicable"] == [
        {"by": "transformers", "reason": "test requires MPS", "tests": {"test_export_static": 1}}
    ]
    assert results["groups"]["processors"] == {"passed": 1, "failed": 0, "not applicable": 0}
    assert not results["failures"]


def test_the_rendered_table_holds_every_failure_and_reason():
    outcomes = [outcome(FAILED, "KeyError: a|b"), outcome(SKIPPED, "test requires MPS"), outcome(PASSED)]
    environment = {"hardware": {"cpu": "one"}, "versions": {"torch": "2", "python": "3"}}
    results = {**judge(outcomes, []), "transformers": "5.23.0", "environment": environment}
    assert "Run once more" not in common_tests_table(results)
    text = common_tests_table({**results, "run_again": ["test_b"]})
    assert text.endswith("on one. Run once more after a change: `test_b`.")
    assert "| **all** | 3 | 1 | 1 | 1 |" in text
    assert "**Failed**: `BERT_ViT_ume_UMEModel::test_export_static`: KeyError: a\\|b" in text
    assert "| test requires MPS | transformers | 1 | `test_export_static` |" in text


class Report:
    def __init__(self, outcome: str, longrepr="", test: str = "test_a"):
        self.nodeid, self.outcome, self.longrepr = f"tests/common_testers.py::Row::{test}", outcome, longrepr
        self.passed, self.failed, self.skipped = (outcome == name for name in (PASSED, FAILED, SKIPPED))


def test_a_test_is_as_good_as_the_worst_of_its_parts():
    spec = importlib.util.spec_from_file_location("common_tests", ROOT / "scripts" / "common_tests.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    recorder = script.Recorder()
    for report in (
        Report(PASSED),  # its setup
        Report(FAILED, "KeyError"),  # two subtests, then the test itself
        Report(FAILED, "TypeError"),
        Report(FAILED, "contains 2 failed subtests"),
        Report(PASSED),
        Report(SKIPPED, ("file.py", 1, "Skipped: test requires MPS"), "test_b"),
        Report(PASSED, test="test_c"),
    ):
        recorder.pytest_runtest_logreport(report)
    assert list(recorder.outcomes.values()) == [
        Outcome("Row::test_a", FAILED, ("KeyError", "TypeError")),
        Outcome("Row::test_b", SKIPPED, ("test requires MPS",)),
        Outcome("Row::test_c", PASSED),
    ]
