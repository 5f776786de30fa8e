"""Real processes on a disk that fails: an LD_PRELOAD library, built here with cc, makes syncs fail with EIO while a trigger file exists."""

import os
import subprocess
from pathlib import Path

from support.processes import need

SOURCE = Path(__file__).with_name("fault_shim.c")


class FailingDisk:
    """A disk that can be broken and mended while a server runs. `environment` is for the server's process."""

    def __init__(self, directory: Path) -> None:
        need("cc")
        library = directory / "fault_shim.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True, timeout=60)
        self._trigger = directory / "broken"
        self.environment = {**os.environ, "LD_PRELOAD": str(library), "GATEPOST_FAULT_TRIGGER": str(self._trigger)}

    def break_under(self, directory: Path) -> None:
        """From now on no sync of a file under `directory` succeeds."""
        fresh = self._trigger.with_suffix(".new")
        fresh.write_text(str(directory.resolve()))
        fresh.rename(self._trigger)

    def mend(self) -> None:
        """Syncs succeed again."""
        self._trigger.unlink(missing_ok=True)
