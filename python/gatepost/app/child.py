"""A worker's process as the supervisor sees it: executed, given its orders, signalled, waited for.

Used by app.main, which executes the first one before the supervisor has imported anything (each imports for a good part of a second,
and so they do it side by side), and by app.pool. Little of the standard library and nothing else: this stands at the very beginning of
every start. A child is executed, never forked, and holds one end of a socket pair (`parent_line`): orders go down, lines come up, and the
end of either process is the end of the line. Fails with OSError when there are no more processes or descriptors.
"""

import contextlib
import os
import signal
import socket
import sys


class Child:
    """One executed worker. `returncode` as in subprocess: None while it runs, negative for the signal that ended it."""

    def __init__(self) -> None:
        self.line, theirs = socket.socketpair()
        try:
            self.pid = _execute(theirs.fileno())
        except BaseException:
            self.line.close()
            raise
        finally:
            theirs.close()
        self.returncode: int | None = None

    async def wait(self) -> int:
        """Until it has ended; its exit status."""
        import asyncio  # not before the first worker is executed

        if self.returncode is None:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            handle = os.pidfd_open(self.pid)
            loop.add_reader(handle, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(handle)
                os.close(handle)
        return self._reap()

    def send_signal(self, number: int) -> None:
        """Nothing happens when it has been waited for: its number may be another's by then."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to drain and to leave."""
        self.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """*blocking* Kill it if nobody has waited for its end yet."""
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)
            self._reap()
        self.line.close()

    def _reap(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def _execute(line: int) -> int:
    """*blocking* A worker that inherits standard output and error and `line`. Its process number."""
    command = [sys.executable, "-m", "gatepost", "worker", "--line-fd", str(line)]
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, line, line),  # onto itself: stays open there, and here no other child inherits it
    ]
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=files)
