"""The licence check: SPDX expressions are read as they are meant, and offenders are named."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    """tools/licences.py as a module."""
    path = Path(__file__).resolve().parents[3] / "tools" / "licences.py"
    spec = importlib.util.spec_from_file_location("licences", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ALLOWED = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"}


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("MIT/Apache-2.0", True),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("(GPL-2.0-only OR LGPL-3.0-only) AND MIT", False),
        ("GPL-3.0-only OR MIT AND GPL-2.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("Apache-2.0 WITH Other-exception", False),
        ("", False),
    ],
)
def test_an_expression_fits_when_one_way_of_meeting_it_is_allowed(licences: ModuleType, expression: str, fits: bool) -> None:
    assert licences.satisfied(expression, ALLOWED) is fits


def test_crates_from_elsewhere_wildcards_and_wrong_licences_are_named(licences: ModuleType) -> None:
    packages = [
        {"name": "good", "version": "1", "source": "registry+index", "license": "MIT", "dependencies": []},
        {"name": "git", "version": "1", "source": "git+somewhere", "license": "MIT", "dependencies": []},
        {"name": "copyleft", "version": "1", "source": "registry+index", "license": "AGPL-3.0-only", "dependencies": []},
        {"name": "ours", "version": "1", "source": None, "license": "MIT", "dependencies": [{"name": "any", "req": "*"}]},
    ]
    problems = licences.crate_problems(packages, {"licenses": {"allow": list(ALLOWED)}})
    assert [problem.split(":")[0] for problem in problems] == ["crate git 1", "crate copyleft 1", "crate ours 1"]


def test_a_pinned_package_that_is_not_installed_is_named(licences: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("# comment\npytest==1.0\nno-such-package-of-ours==1.0\n")
    (problem,) = licences.package_problems(lock)
    assert "no-such-package-of-ours" in problem
