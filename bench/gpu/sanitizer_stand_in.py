"""In place of compute-sanitizer where the emulator runs the kernels: ``sanitizer_stand_in.py COMMAND...``.

The emulator finds by itself what is read or written outside of a tensor; smoke has a line that is WRONG then. These are
counted, and the count is said as compute-sanitizer says it.
"""

from __future__ import annotations

import subprocess
import sys


def main() -> int:
    """Run the command; its exit status."""
    wrong = 0
    print("========= COMPUTE-SANITIZER", flush=True)
    with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            wrong += line.startswith("WRONG")
            print(line, end="", flush=True)
    print(f"========= ERROR SUMMARY: {wrong} error{'' if wrong == 1 else 's'}", flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
