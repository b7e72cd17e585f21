"""A short round of the fuzzer; `make fuzz` is the long one."""

import subprocess
import sys


def test_no_request_of_the_document_breaks_the_daemon() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--seconds", "12"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
