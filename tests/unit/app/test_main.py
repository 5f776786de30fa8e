"""The word of a command is found behind the options that the whole program takes."""

import json
from pathlib import Path

import pytest

from gatepost.app.main import main


@pytest.mark.parametrize("before", [["--json"], ["--data", "DIR", "--json"], ["--data=DIR", "--json"]])
def test_options_before_scan_are_options_of_scan(before: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "note.txt"
    file.write_text("nothing to see\n")
    assert main([*(word.replace("DIR", str(tmp_path)) for word in before), "scan", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["decision"]["action"] == "accept"


def test_the_queue_of_a_server_that_is_not_there_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path), "scan", "--queue", "019a0000-0000-7000-8000-000000000000"]) != 0
    assert str(tmp_path) in capsys.readouterr().err
