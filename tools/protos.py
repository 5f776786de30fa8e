"""Generates python/gatepost/api from proto/ (`make protos`), or proves that it is current (`--check`, for CI and `make check`).

`--check` also runs buf: lint, format, and breaking changes against what the main branch has.
Exit code 0: done, or nothing to complain about; 1: a difference or a finding, which is printed.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
API = ROOT / "python" / "gatepost" / "api"
PACKAGE_DOC = (
    '"""Generated from proto/ by tools/protos.py; do not edit. Imported by control/, client/ and the supervisor\'s merge only."""\n'
)


def main() -> int:
    """Parse arguments, generate or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    parser.add_argument("--against", default="main", help="git branch for buf breaking (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        made = generate(Path(scratch))
        if arguments.check:
            findings = [*differences(made, API), *buf_findings(arguments.against)]
            print("\n".join(findings) or "protos: generated code is current, lint and breaking checks pass")
            return 1 if findings else 0
        shutil.rmtree(API, ignore_errors=True)
        shutil.copytree(made, API)
    print(f"protos: wrote {API.relative_to(ROOT)}")
    return 0


def generate(scratch: Path) -> Path:
    """Run protoc into `scratch`; returns the made `api` package."""
    protos = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{files('grpc_tools') / '_proto'}"),
        *(f"--python_out={scratch}", f"--grpc_python_out={scratch}"),
        *(f"--mypy_out=quiet:{scratch}", f"--mypy_grpc_out=quiet,only_async:{scratch}"),
        *(f"--plugin={name}={Path(sys.executable).parent / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
        *protos,
    ]
    subprocess.run(command, check=True, cwd=ROOT)
    made = scratch / "gatepost" / "api"
    for folder in [made, *(path for path in made.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text(PACKAGE_DOC)
    return made


def differences(made: Path, kept: Path) -> list[str]:
    """Files that differ, are missing or are left over, one line each."""
    wanted = {path.relative_to(made) for path in made.rglob("*.py*") if path.is_file()}
    present = {path.relative_to(kept) for path in kept.rglob("*.py*") if path.is_file() and path.suffix != ".pyc"}
    changed = [name for name in wanted & present if not filecmp.cmp(made / name, kept / name, shallow=False)]
    wrong = sorted([*changed, *(wanted ^ present)])
    return [f"{(kept / name).relative_to(ROOT)}: not what proto/ generates; run tools/protos.py" for name in wrong]


def buf_findings(branch: str) -> list[str]:
    """What buf has to say: lint, format, and breaking changes when the branch has an API already."""
    findings = [*_buf("lint"), *_buf("format", "--diff", "--exit-code")]
    known = subprocess.run(["git", "cat-file", "-e", f"{branch}:buf.yaml"], cwd=ROOT, capture_output=True, check=False)
    if known.returncode == 0:
        findings += _buf("breaking", "--against", f".git#branch={branch}")
    else:
        print(f"protos: branch {branch} has no buf.yaml, nothing to compare with", file=sys.stderr)
    return findings


def _buf(*arguments: str) -> list[str]:
    program = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


if __name__ == "__main__":
    sys.exit(main())
