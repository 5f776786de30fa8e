"""The plug-in of docs/scanners.md, installed by pip into a directory of its own and found by its entry point in a fresh process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "scanner_plugin"

PROGRAM = """
import asyncio, sys
from pathlib import Path
from gatepost.config import load_settings
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.blob import MemoryBlob, MemoryPart
from gatepost.scan.scanners.pool import ScannerPool
from gatepost.scan.scanners.registry import ScannersError

async def main():
    try:
        pool = ScannerPool(load_settings(Path(sys.argv[1]), environ={}).scan)
    except ScannersError as fault:
        print(fault)
        return
    await pool.start()
    while not pool.states()[0].signatures:
        await asyncio.sleep(0.01)
    for data in (b"good", b"bad"):
        answers = await pool.ask(MemoryBlob(b"whole", parts=(MemoryPart(data, "x.bin"),)), MailFacts("a@b", ("c@d",)), pool.names)
        print(*((answer.scanner, answer.outcome, answer.name) for answer in answers))
    await pool.close()

asyncio.run(asyncio.wait_for(main(), 20))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PYTHONPATH with the plug-in and its metadata in it, as pip leaves them."""
    target, source = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("source")
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return target


def _run(installed: Path, settings: Path) -> str:
    command = [sys.executable, "-c", PROGRAM, str(settings)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, env={**os.environ, "PYTHONPATH": str(installed)}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_plug_in_is_found_made_and_asked(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{hashlib.sha256(b'bad').hexdigest()} Known.Bad\n")
    (tmp_path / "gatepost.toml").write_text(f'[[scan.scanners]]\nname = "house"\nkind = "hashlist"\naddress = "{tmp_path / "list"}"\n')
    assert _run(installed, tmp_path / "gatepost.toml").splitlines() == ["('house', 'clean', '')", "('house', 'infected', 'Known.Bad')"]


def test_faults_of_a_plug_in_s_settings_are_named_by_their_keys(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "gatepost.toml").write_text(
        '[[scan.scanners]]\nname = "a"\nkind = "hashlist"\n'
        '[[scan.scanners]]\nname = "b"\nkind = "hashlist"\naddress = "/x"\noptions = {suspicious = "perhaps", colour = "red"}\n'
        '[[scan.scanners]]\nname = "c"\nkind = "hashlits"\n'
    )
    first, second, third, fourth = _run(installed, tmp_path / "gatepost.toml").splitlines()
    assert first == "scan.scanners.0.address: must be the path of the list (got '')"
    assert second.startswith("scan.scanners.1.options.suspicious: ")
    assert third == "scan.scanners.1.options.colour: unknown option (got 'red')"
    assert fourth == "scan.scanners.2.kind: no such scanner; there are clamd, hashlist, icap, rspamd, yara (got 'hashlits')"


def test_the_manual_shows_the_plug_in_as_it_is_tested() -> None:
    assert (EXAMPLE / "gatepost_hashlist.py").read_text() in (ROOT / "docs" / "scanners.md").read_text()
    assert '[project.entry-points."gatepost.scanners"]\nhashlist = "gatepost_hashlist:make"' in (ROOT / "docs" / "scanners.md").read_text()
