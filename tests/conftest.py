"""What every test shares: `support` on the import path, and the rule that nothing is skipped in CI.

With CI=true in the environment a skip counts as a failure, whether it comes from a test, a fixture or a module that
could not be collected: the machine that judges a change must have run all of it.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

pytest_plugins = ["support.fixtures"]

STRICT = os.environ.get("CI", "").lower() == "true"
MAY_SKIP_IN_CI: frozenset[str] = frozenset()
"""Node ids that may skip even in CI. Empty, and meant to stay so."""


def _no_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if STRICT and report.skipped and not hasattr(report, "wasxfail") and report.nodeid not in MAY_SKIP_IN_CI:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be skipped: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _no_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _no_skip(report)
    return report
