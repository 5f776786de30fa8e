"""`python -m gatepost.native.build_rules DIRECTORY_DB TARGET`: build the index of a large rule set, in a process of its own.

Run by directory/live.py; nobody else needs it. A process of its own, because the extension's SQLite must not open a file that Python's has
open (closing it would end the other's locks), because its memory ends with it, and because it may yield to all others: its niceness
is 10. Ends with 0 and the version it built, or with 1 and what was wrong on standard error.
"""

import os
import sys

from gatepost.native import CoreError, build_rule_index


def main() -> int:
    """Build as told by the arguments."""
    directory, target = sys.argv[1:3]
    os.nice(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    try:
        version, octets = build_rule_index(directory, target)
    except CoreError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{version} {octets}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
