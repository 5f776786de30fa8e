"""tools/doctor says what is missing, and finds a Python that will do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCTOR = Path(__file__).resolve().parents[3] / "tools" / "doctor"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory to be PATH, with nothing in it but what the script itself needs."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("sh", "sed"):
        (directory / name).symlink_to(shutil.which(name) or name)
    return directory


def fake(directory: Path, name: str, says: str = "") -> None:
    """A program that only says something."""
    (directory / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (directory / name).chmod(0o755)


def doctor(programs: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run it with that PATH."""
    environment = {"PATH": str(programs), **more}
    return subprocess.run(["/bin/sh", str(DOCTOR), *arguments], env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_everything_that_is_missing_is_named_with_what_to_do(programs: Path) -> None:
    done = doctor(programs)
    assert done.returncode == 1
    for word in ("cc", "make", "Python 3.11", "Rust 1.88", "apt-get install build-essential", "python3-venv", "rustup"):
        assert word in done.stderr


def test_an_old_rust_is_not_enough(programs: Path) -> None:
    for name in ("cc", "make"):
        fake(programs, name)
    fake(programs, "cargo", "cargo 1.63.0 (old)")
    done = doctor(programs, PYTHON=sys.executable)
    assert done.returncode == 1
    assert "found cargo 1.63" in done.stderr


def test_a_complete_machine_passes_and_the_chosen_python_is_told(programs: Path) -> None:
    for name in ("cc", "make"):
        fake(programs, name)
    fake(programs, "cargo", "cargo 1.88.0 (new)")
    assert doctor(programs, PYTHON=sys.executable).returncode == 0
    assert os.path.samefile(doctor(programs, "--python", PYTHON=sys.executable).stdout.strip(), sys.executable)


def test_a_python_that_is_too_old_is_not_chosen(programs: Path) -> None:
    (programs / "python3").write_text("#!/bin/sh\nexit 1\n")
    (programs / "python3").chmod(0o755)
    assert doctor(programs, "--python").returncode == 1


def test_of_several_pythons_on_path_the_first_that_was_built_with_optimisation_is_chosen(programs: Path, tmp_path: Path) -> None:
    slow = "#!/bin/sh\ncase $2 in *sysconfig*) exit 1 ;; esac\n"
    (programs / "python3").write_text(slow)
    later = tmp_path / "later"
    later.mkdir()
    (later / "python3").write_text("#!/bin/sh\n")
    for python in (programs / "python3", later / "python3"):
        python.chmod(0o755)
    assert doctor(programs, "--python").stdout == f"{programs}/python3\n"
    assert doctor(programs, "--python", PATH=f"{programs}:{later}").stdout == f"{later}/python3\n"
    assert doctor(programs, "--python", PATH=f"{programs}:{later}", PYTHON="python3").stdout == f"{programs}/python3\n"
