"""Sizes, spans, ages, JSON and tables."""

from datetime import UTC, datetime, timedelta

import pytest

from gatepost.cli import output
from gatepost.cli.spans import parse_size, parse_span
from gatepost.client.values import Gateway, Reply

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10_240, "10.0 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (9 << 40, "9.0 TiB"),
    ],
)
def test_sizes_are_human(octets: int, text: str):
    assert output.human_size(octets) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (7800, "2h 10m"), (86400, "1d"), (356_400, "4d 3h")],
)
def test_spans_are_human(seconds: int, text: str):
    assert output.human_span(timedelta(seconds=seconds)) == text


def test_until_is_now_when_it_is_past_and_empty_for_never():
    assert output.until(None) == ""
    assert output.until(NOW - timedelta(seconds=1), NOW) == "now"
    assert output.until(NOW + timedelta(minutes=5), NOW) == "in 5m"


def test_json_has_utc_times_seconds_and_no_passwords():
    value = {"a": NOW, "b": timedelta(minutes=1), "c": (Reply(250, "2.0.0", "ok"),), 1: Gateway("h", password="hush")}
    assert output.to_json(value)["a"] == "2026-11-22T12:00:00.000Z"
    assert output.to_json(value)["b"] == 60.0
    assert output.to_json(value)["c"][0] == {"code": 250, "enhanced": "2.0.0", "text": "ok", "host": "", "command": ""}
    assert "password" not in output.to_json(value)["1"]


def test_control_characters_from_outside_are_neutralised():
    assert output.clean("a\x1b[2Jb\nc\td\x9b") == "a?[2Jb c d?"


class Terminal:
    """Standard output that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True

    encoding = "utf-8"


IDS = ["01930000-0001-7000-8000-00000000000a", "01930000-0001-7000-8000-00000000000b", "01930000-0002-7000-8000-000000000000"]


def test_on_a_terminal_ids_are_shortened_unless_that_would_be_ambiguous(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    assert output.shown_ids(IDS) == [IDS[0], IDS[1], "01930000-0002-7000"]
    monkeypatch.setenv("COLUMNS", "200")
    assert output.shown_ids(IDS) == IDS


def test_on_a_terminal_a_table_fits_its_width(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    output.print_table(["!ID", ">SIZE", "STATE", "SENDER", "RECIPIENT"], [(IDS[2][:18], "10.0 KiB", "deferred", "s" * 60, "r" * 60)])
    assert all(len(line) <= 80 for line in terminal.text.splitlines())
    assert "10.0 KiB  deferred" in terminal.text
    assert IDS[2][:18] in terminal.text


def test_into_a_pipe_nothing_is_cut_or_padded(capsys: pytest.CaptureFixture[str]):
    output.print_table(["ID", "TEXT"], [("x" * 300, "y"), ("z", "")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{'x' * 300}  y"
    assert lines[2] == "z"


def test_numbers_are_aligned_to_the_right(capsys: pytest.CaptureFixture[str]):
    output.print_table([">COUNT", "NAME"], [("7", "a"), ("12345678", "b")])
    assert capsys.readouterr().out.splitlines() == ["   COUNT  NAME", "       7  a", "12345678  b"]


def test_spans_and_sizes_are_read_as_people_type_them():
    assert [parse_span(text).total_seconds() for text in ("90", "90s", "10m", "2h", "1d12h", "1w")] == [90, 90, 600, 7200, 129_600, 604_800]
    assert [parse_size(text) for text in ("500", "10K", "5MiB", "1g")] == [500, 10_240, 5_242_880, 1 << 30]
    for bad in ("", "m", "1y", "-1s", "1 h"):
        with pytest.raises(ValueError, match="span"):
            parse_span(bad)
    with pytest.raises(ValueError, match="size"):
        parse_size("many")
