"""LiveRules: the snapshot in force follows the directory, and what depends on it is told until it has heard."""

import threading

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


async def test_policies_are_parsed_and_their_lists_read_in_a_thread_before_they_are_in_force(directory, tmp_path, monkeypatch):
    from gatepost.config import load_settings
    from gatepost.scan import files, hashes, policy

    rules = LiveRules(directory)
    settings = load_settings(environ={})
    policies = files.PoliciesInForce(rules, lambda: settings)
    rules.before_change(policies.prepare)
    read_by = []

    def noted(path):
        read_by.append(threading.current_thread())
        return hashes.hash_file(path)

    monkeypatch.setattr(policy, "hash_file", noted)
    digests = tmp_path / "digests"
    digests.write_text("ab" * 32 + "\n")
    text = f'[[rules]]\nname = "known"\naction = "reject"\nsha256_files = ["{digests}"]\n'
    directory.put_policy("listed", text, author="test")
    await rules.refresh()
    assert policies().get("listed").rules[0].name == "known"
    settings = load_settings(environ={"GATEPOST_SCAN__POLICY": "none"})
    assert policies().get("listed").rules[0].name == "known"
    assert len(read_by) == 1
    assert read_by[0] is not threading.current_thread()
