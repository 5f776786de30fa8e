"""What a load costs: CPU seconds of a server's processes, and of the whole machine, from /proc.

Used by sides.py around each load. A server's figure is the sum over its process tree of user and system time, with the children that have
ended and were waited for: Postfix replaces its processes after a hundred uses. The machine's figure holds the load generator too.
"""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> tuple[int, float]:
    """(parent, CPU seconds with those of ended children). OSError when it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[1]), sum(int(ticks) for ticks in fields[11:15]) / TICKS


def tree(roots: list[int]) -> list[int]:
    """The processes and all their descendants that live now."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = _stat(int(entry))[0]
            except OSError:
                continue
    found = set(roots)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        grown = bool(more)
        found |= more
    return sorted(found & parents.keys())


def cpu_seconds(roots: list[int]) -> float:
    """CPU seconds that the trees below `roots` have used so far."""
    total = 0.0
    for pid in tree(roots):
        try:
            total += _stat(pid)[1]
        except OSError:
            continue
    return total


def machine_seconds() -> float:
    """CPU seconds that the whole machine has used so far: all but idle and waiting for the disk."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS


def resident_kib(roots: list[int]) -> int:
    """Resident memory of the trees below `roots`, proportional shares of what they share (PSS), in KiB."""
    total = 0
    for pid in tree(roots):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total


def forget_cache(directory: Path) -> None:
    """Takes the files below a directory out of the system's cache, as if nobody had read them for long."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fdatasync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
