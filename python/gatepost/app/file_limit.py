"""How many files a process may hold open. Called by supervisor and worker, each for itself, before they open any."""

import contextlib
import resource


def raise_file_limit() -> None:
    """The usual soft limit of 1,024 is fewer files than the sessions of one worker, and a spool that can open no segment fails for good.
    The hard limit is the administrator's.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
