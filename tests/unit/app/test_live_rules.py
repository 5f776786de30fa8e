"""LiveRules: the snapshot in force follows the directory, and what depends on it is told until it has heard."""

import pytest

from gatepost.app.snapshot import LiveRules
from gatepost.directory import Directory
from gatepost.routing.model import DomainRule, RuleKind


@pytest.fixture
def directory(tmp_path):
    opened = Directory(tmp_path / "directory.db", migrate=True)
    yield opened
    opened.close()


async def test_a_change_is_in_force_after_a_refresh(directory):
    rules = LiveRules(directory)
    directory.put_rule(DomainRule("example.test", RuleKind.HOSTED), create=True, author="test")
    version = await rules.refresh()
    assert "example.test" in rules().rules
    assert version == rules().version


async def test_a_hook_that_failed_is_run_again_at_the_next_refresh(directory):
    rules, calls = LiveRules(directory), []

    def fails_once() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise OSError("the directory is busy")

    rules.on_change(fails_once)
    directory.put_rule(DomainRule("example.test", RuleKind.HOSTED), create=True, author="test")
    with pytest.raises(OSError, match="busy"):
        await rules.refresh()
    await rules.refresh()
    await rules.refresh()
    assert calls == [0, 1]
