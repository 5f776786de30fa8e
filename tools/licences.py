"""Checks that everything Gatepost is built from may be used under Apache-2.0 OR MIT. Run by `make check`.

Rust crates: `cargo metadata`, judged by deny.toml (licences, sources, wildcards; duplicates are reported). Python packages:
those named in requirements.lock, by the metadata of what is installed, judged by PYTHON_ALLOWED. Needs no network.
Exit status 1 and one line per offender when something does not fit.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

PYTHON_ALLOWED = (
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",  # development tools and unmodified libraries only: file-level copyleft
    "PSF-2.0",
    "Python-2.0",
    "Unlicense",
    "Zlib",
)
"""SPDX identifiers; MPL-2.0 is compatible as long as we do not change the files."""

SPELLINGS = {
    "apache software license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mit no attribution license (mit-0)": "MIT-0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
"""What trove classifiers and older metadata call the licences above, lower case."""


def satisfied(expression: str, allowed: set[str]) -> bool:
    """True when the SPDX expression can be met with `allowed`: one side of every OR, both sides of every AND."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def term() -> bool:
        nonlocal position
        token = tokens[position]
        position += 1
        if token == "(":
            inner = either()
            position += 1
            return inner
        if tokens[position : position + 1] == ["WITH"]:
            token = f"{token} WITH {tokens[position + 1]}"
            position += 2
        return token in allowed

    def both() -> bool:
        nonlocal position
        result = term()
        while tokens[position : position + 1] == ["AND"]:
            position += 1
            result = term() and result
        return result

    def either() -> bool:
        nonlocal position
        result = both()
        while tokens[position : position + 1] == ["OR"]:
            position += 1
            result = both() or result
        return result

    return bool(tokens) and either()


def crate_problems(packages: list[dict[str, Any]], rules: dict[str, Any]) -> list[str]:
    """Problems of the crates in `cargo metadata` form, by the rules of deny.toml."""
    allowed = set(rules["licenses"]["allow"])
    problems = []
    for package in packages:
        name, source = f"{package['name']} {package['version']}", package["source"]
        if source is not None and not source.startswith("registry+"):
            problems.append(f"crate {name}: comes from {source}, not from the registry")
        if not satisfied(package["license"] or "", allowed):
            problems.append(f"crate {name}: licence {package['license']!r} is not allowed")
        if source is None:
            problems += [
                f"crate {name}: wildcard dependency {dependency['name']}"
                for dependency in package["dependencies"]
                if dependency["req"] == "*" and not dependency.get("path")
            ]
    return problems


def duplicate_crates(packages: list[dict[str, Any]]) -> list[str]:
    """Crates that are in the graph in several versions; a warning, not a problem."""
    versions: dict[str, list[str]] = defaultdict(list)
    for package in packages:
        versions[package["name"]].append(package["version"])
    return [f"crate {name}: {', '.join(sorted(found))}" for name, found in sorted(versions.items()) if len(found) > 1]


def declared_licence(distribution: metadata.Distribution) -> list[str]:
    """Every way the distribution names its licence, best first: SPDX expression, classifiers, free text."""
    info = distribution.metadata
    for expression in info.get_all("License-Expression") or []:
        return [expression]
    classifiers = [c.rpartition(" :: ")[2] for c in info.get_all("Classifier") or [] if c.startswith("License ::")]
    names = [name for name in classifiers if name not in ("OSI Approved", "DFSG approved")]
    return names or [text.strip().split("\n")[0] for text in info.get_all("License") or [""]]


def package_problems(lock: Path) -> list[str]:
    """Problems of the Python packages pinned in `lock`."""
    allowed, problems = set(PYTHON_ALLOWED), []
    for line in lock.read_text().splitlines():
        requirement = re.match(r"([A-Za-z0-9._-]+)==", line)
        if requirement is None:
            continue
        try:
            names = declared_licence(metadata.distribution(requirement[1]))
        except metadata.PackageNotFoundError:
            problems.append(f"package {requirement[1]}: pinned but not installed; run `make setup`")
            continue
        if not any(satisfied(SPELLINGS.get(name.lower(), name), allowed) for name in names):
            problems.append(f"package {requirement[1]}: licence {' / '.join(names)!r} is not allowed")
    return problems


def main() -> int:
    """Print what was found; 1 when something does not fit."""
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    for target in rules["graph"]["targets"]:
        command += ["--filter-platform", target]
    packages = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)["packages"]
    problems = crate_problems(packages, rules) + package_problems(ROOT / "requirements.lock")
    for duplicate in duplicate_crates(packages):
        print(f"note: in several versions: {duplicate}")
    for problem in problems:
        print(f"licences: {problem}", file=sys.stderr)
    if not problems:
        print(f"licences: {len(packages)} crates and all pinned packages fit")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
