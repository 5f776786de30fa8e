"""`gatepost mime`: the tree, the defects and the readings of a file, and what it says when there is nothing to read."""

import json
import subprocess
import sys
from pathlib import Path

READINGS = Path(__file__).parents[2] / "corpus" / "mime" / "readings"
PROGRAM = "import sys; from gatepost.cli.main import main; sys.exit(main())"


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", PROGRAM, "mime", *arguments], input=stdin, capture_output=True, timeout=60, check=False)


def test_the_tree_the_defects_and_every_reading_are_shown():
    done = run(str(READINGS / "boundary-twice.eml"))
    out = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert out.startswith("multipart/mixed (7bit): header 0, body ")
    assert "\n  text/plain (7bit): header " in out
    assert "\ndefect   repeated-parameter at " in out
    assert "\nverdict  ambiguous\n" in out
    assert "\nreading 1: the last of repeated parameters counts\n  application/octet-stream 'hidden.txt', 26 octets, sha256 " in out


def test_json_from_standard_input():
    done = run("-", "--json", stdin=b"Subject: \x1b[2J\r\n\r\nhello\r\n")
    shown = json.loads(done.stdout)
    assert (done.returncode, shown["verdict"], shown["preview"], len(shown["parts"])) == (0, "clear", "hello", 1)
    (leaf,) = shown["readings"][0]["leaves"]
    assert (leaf["octets"], leaf["body"], leaf["end"], leaf["types"]) == (7, 17, 24, ["text/plain"])


def test_what_cannot_be_read_is_said_in_a_line(tmp_path: Path):
    missing = run(str(tmp_path / "none.eml"))
    assert (missing.returncode, missing.stdout) == (3, b"")
    assert missing.stderr.decode().strip() == f"gatepost: {tmp_path}/none.eml: no such file"
    folder = run(str(tmp_path))
    assert (folder.returncode, folder.stderr.decode().strip()) == (1, f"gatepost: {tmp_path}: Is a directory")
    huge = tmp_path / "huge.eml"
    with huge.open("wb") as opened:
        opened.truncate((256 << 20) + 1)
    refused = run(str(huge))
    assert (refused.returncode, refused.stderr.decode().strip()) == (1, f"gatepost: {huge}: more than 256.0 MiB")
