"""`gatepost scan FILE` as somebody at a terminal or in a script meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gatepost.app.main import main
from support import archives

PROGRAM_IN_7Z = archives.seven_zip({"photo.jpg": archives.PROGRAM, "note.txt": b"hi"})


def test_the_tree_and_the_decision_are_printed_and_a_refusal_is_an_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "photos.7z"
    file.write_bytes(PROGRAM_IN_7Z)
    assert main(["scan", str(file)]) == 1
    out = capsys.readouterr().out
    assert "  photo.jpg  pe  128  executable  misnamed\n" in out
    assert "policy: reject — program: photo.jpg\n" in out
    assert "  reject: program: photos.7z / photo.jpg  (flags: executable)\n" in out


def test_json_has_digests_and_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "note.txt"
    file.write_bytes(b"hello\n")
    assert main(["scan", "--json", str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "complete"
    assert found["entries"][0]["sha256"] == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    assert found["decision"] == {
        "action": "accept", "policy": "shipped", "rule": "", "reason": "", "hits": [], "stripped": [], "subject": "", "copies": []
    }  # fmt: skip


def test_rules_of_ones_own_are_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, policy = tmp_path / "photos.7z", tmp_path / "policy.toml"
    file.write_bytes(PROGRAM_IN_7Z)
    policy.write_text('[[rules]]\nname = "texts"\naction = "tag"\nextensions = ["txt"]\n')
    assert main(["scan", "--policy", str(policy), str(file)]) == 0
    assert "  tag: texts: photos.7z / note.txt  (extensions: txt)\n" in capsys.readouterr().out
    policy.write_text("[[rules]]\n")
    assert main(["scan", "--policy", str(policy), str(file)]) == 2
    assert "rule 1: name: Field required" in capsys.readouterr().err


def test_facts_are_those_of_the_options_and_edits_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, policy = tmp_path / "mail.eml", tmp_path / "policy.toml"
    file.write_bytes(
        b"From: a@b.test\r\nSubject: =?utf-8?q?h=C3=A9?=\r\n more\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
        b'--x\r\n\r\nhi\r\n--x\r\nContent-Disposition: attachment; filename="a.log"\r\n\r\nlog\r\n--x--\r\n'
    )
    policy.write_text(
        '[[rules]]\nname = "logs"\naction = "strip"\nsubject = "[cut]"\ncopy_to = "audit@here.test"\n'
        "when = \"entry.extension == 'log' && mail.direction == 'outbound' && mail.header('subject') == ['hé more'] "
        "&& mail.sender_domain == 'here.test' && 'z@w.test' in mail.recipients\"\n"
    )
    given = ["scan", "--policy", str(policy), str(file), "--sender", "me@Here.test", "--recipient", "z@w.test"]
    assert main(given) == 0
    assert "policy: accept\n" in capsys.readouterr().out
    assert main([*given, "--direction", "outbound"]) == 0
    out = capsys.readouterr().out
    assert "policy: strip — logs: a.log\n" in out
    assert "would be replaced by a notice: mail.eml / a.log\n" in out
    assert "subject would begin with: [cut]\n" in out
    assert "copy would go to: audit@here.test\n" in out


def test_a_server_that_is_not_there_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "--queue", "0", "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("gatepost: ")
    with pytest.raises(SystemExit):
        main(["scan"])


def test_names_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.7z"
    file.write_bytes(archives.seven_zip({"gpj.\u202eexe": b"x", "\x1b[2Jb": b"y"}))
    main(["scan", str(file)])
    out = capsys.readouterr().out
    assert "gpj.\\u202eexe" in out
    assert "\\u001b[2Jb" in out
    assert "\x1b" not in out


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gatepost", "scan", str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"gatepost: {tmp_path / 'none'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('acton = "reject"', "acton: there is no such key; did you mean 'action'?"),
        (
            'action = "rejct"\nflags = ["executable"]',
            "action: must be one of accept, tag, copy, strip, quarantine, hold, reject (got 'rejct')",
        ),
        ('action = "tag"\nflags = ["executabel"]', "did you mean 'executable'?"),
        ('action = "tag"\nwhen = "entry.siz > 3"', "when: column 7: entry has no field 'siz'; did you mean 'size'?"),
        ('action = "tag"\nwhen = "entry.size >"', "when: column 13: a value expected, not the end"),
        ("action = ", "Invalid value (at line 3, column 10)"),
    ],
)
def test_a_fault_of_a_policy_is_told_with_the_nearest_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, fault: str
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[[rules]]\nname = "x"\n{text}\n')
    assert main(["scan", "--policy", str(policy), str(policy)]) == 2
    assert fault in capsys.readouterr().err


def test_a_file_that_cannot_be_read_or_is_too_long_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["scan", str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err == f"gatepost: {tmp_path / 'gone'}: No such file or directory\n"
    assert main(["scan", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"gatepost: {tmp_path}: Is a directory\n"
    monkeypatch.setattr("gatepost.app.scan_file.FILE_MAX", 1000)
    assert main(["scan", "/dev/zero"]) == 2
    assert capsys.readouterr().err == "gatepost: /dev/zero: longer than 1,000 octets, the most that is looked into\n"
