"""Scanners in the settings: every fault is named by its key."""

from pathlib import Path

import pytest

from gatepost.config import SettingsError, load_settings

GOOD = {"name": "clam", "kind": "clamd", "address": "unix:/run/clamd.sock"}


def _load(*tables: dict[str, object], **scan: object) -> object:
    return load_settings(overrides={"scan": {"scanners": list(tables), **scan}}, environ={})


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("clamd", "unix:/run/clamav/clamd.ctl"),
        ("clamd", "tcp:[::1]:3310"),
        ("icap", "icap://scanner.example/avscan?mode=x"),
        ("icap", "icap://[::1]:1345/"),
        ("rspamd", "http://127.0.0.1:11333"),
        ("rspamd", "http+unix:/run/rspamd.sock"),
        ("yara", "/etc/rules"),
        ("of-a-plug-in", ""),
    ],
)
def test_addresses_that_can_be_dialled_are_taken(kind: str, address: str) -> None:
    _load({"name": "one", "kind": kind, "address": address})


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"address": ""}, "scan.scanners.0.address: must begin with unix: or tcp: (got '')"),
        ({"address": "unix:clamd"}, "scan.scanners.0.address: must be an absolute path behind unix: (got 'unix:clamd')"),
        ({"address": "tcp:host:0"}, "scan.scanners.0.address: must name a port (got 'tcp:host:0')"),
        ({"kind": "icap", "address": "icap:///x"}, "scan.scanners.0.address: must name a host (got 'icap:///x')"),
        (
            {"kind": "rspamd", "address": "ftp://x"},
            "scan.scanners.0.address: must begin with http: or https: or http+unix: (got 'ftp://x')",
        ),
        ({"kind": "yara", "address": ""}, "scan.scanners.0.address: must be the directory of the rules (got '')"),
        ({"address": "unix:/a\r\nb"}, "scan.scanners.0.address: must not contain control characters"),
        ({"name": "Two Words"}, "scan.scanners.0.name: must be 1 to 40 of a-z"),
        ({"timeout_seconds": 0}, "scan.scanners.0.timeout_seconds: must be more than 0 (got 0)"),
        ({"when": "never"}, "scan.scanners.0.when: must be 'all' or 'attachments' (got 'never')"),
        ({"colour": 1}, "scan.scanners.0.colour: unknown setting"),
        ({"retry_seconds": 5, "retry_max_seconds": 1}, "scan.scanners.0.retry_max_seconds: must be at least retry_seconds (got 1.0)"),
    ],
)
def test_a_fault_is_named_by_its_key(more: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError) as found:
        _load({**GOOD, **more})
    assert [line for line in found.value.problems if line.startswith(problem)], found.value.problems


def test_two_scanners_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"scan\.scanners\.1\.name: must differ from the others \(got 'clam'\)"):
        _load(GOOD, GOOD)


def test_the_environment_gives_tables_as_json(tmp_path: Path) -> None:
    text = '[{"name": "y", "kind": "yara", "address": "/rules", "options": {"processes": 2}}]'
    settings = load_settings(environ={"GATEPOST_SCAN__SCANNERS": text})
    assert settings.scan.scanners[0].options == {"processes": 2}
