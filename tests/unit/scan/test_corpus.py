"""tests/corpus/scan: each file beside what is to be found in it, an entry a line: depth, name, type, flags; signs and defects below."""

from pathlib import Path

import pytest

from gatepost.scan.report import Report, inspect

CORPUS = Path(__file__).resolve().parents[2] / "corpus" / "scan"
CASES = sorted(path for path in CORPUS.iterdir() if path.suffix != ".expected")


def told(report: Report) -> str:
    lines = [report.verdict]
    for entry in report.entries:
        lines.append(" ".join(["  " * entry.depth + (entry.name or "-"), entry.kind or "-", str(entry.size), *sorted(entry.flags)]))
        lines += ["  " * entry.depth + f"  {note}" for note in (*entry.signs, *(f"!{defect}" for defect in entry.defects))]
    return "\n".join(lines) + "\n"


def test_the_corpus_is_there() -> None:
    assert len(CASES) >= 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_found_is_what_is_expected(case: Path) -> None:
    assert told(inspect(case.read_bytes(), case.name)) == Path(f"{case}.expected").read_text("utf-8")
