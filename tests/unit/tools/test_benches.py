"""Programs that start servers leave none behind when they are asked to end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import subprocess, sys, time
from support.processes import end, exit_on_sigterm
exit_on_sigterm()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
try:
    print(child.pid, flush=True)
    time.sleep(60)
finally:
    end(child)
"""


def test_a_bench_that_is_ended_by_sigterm_ends_what_it_started() -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, env=environment) as bench:
        assert bench.stdout is not None
        child = int(bench.stdout.readline())
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(20) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{child}").exists()
