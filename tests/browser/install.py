"""What the browser and client tests need beyond Python: `python -m tests.browser.install`.

npm packages of the test folders, and a Chromium: one that is installed, else Debian's package when this is
Debian and we are root, else playwright's own download. On Linux also certutil, the program that tells it whom
to trust. What cannot be had is said in one loud line, and its tests skip. Exits with 1 where npm is there and
its packages could not be installed, and with AGAIN where there is no npm: all else is done then, and the next
`make test` looks again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.browser import chrome

TESTS = Path(__file__).parent.parent
LONG_S = 900
AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the Makefile goes on, and tries again the next time


def main() -> int:
    status = packages()
    browser()
    if sys.platform == "linux":
        certutil()
    return status


def packages() -> int:
    """`npm ci` in each folder of the tests that has a lock file. Returns an exit status."""
    if not shutil.which("npm"):
        loud("NO NODE: the tests of JavaScript clients will be skipped; install Node.js 20 or newer")
        return AGAIN
    failed = [
        f"tests/{lock.parent.name}"
        for lock in sorted(TESTS.glob("*/package-lock.json"))
        if not ran("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", cwd=lock.parent)
    ]
    if failed:
        loud(
            f"NO NPM PACKAGES: `npm ci` failed in {' and '.join(failed)}, and npm says why above; run make "
            "again when it can work, or `.venv/bin/python -m pytest` for the tests that do without"
        )
    return 1 if failed else 0


def browser() -> None:
    if chrome.find():
        return print(f"browser: {chrome.find()}")
    debian("chromium")
    if not chrome.find() and shutil.which("npx"):
        ran("npx", "--yes", "playwright@1", "install", "chromium")
    if chrome.find():
        print(f"browser: {chrome.find()}")
    else:
        loud("NO BROWSER: its tests will be skipped; install Chrome or Chromium, or set CHROME to its path")


def certutil() -> None:
    if not shutil.which("certutil"):
        debian("libnss3-tools")
    if not shutil.which("certutil"):
        loud("NO CERTUTIL: that Chromium verifies our certificates will not be tested; install libnss3-tools")


def debian(package: str) -> None:
    """Installs it where this is Debian and we are root."""
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        ran("apt-get", "update", "-qq", env=quiet)
        ran("apt-get", "install", "-y", "-qq", "--no-install-recommends", package, env=quiet)


def ran(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> bool:
    """Whether the command was there and succeeded. Its output is shown."""
    print("+", *command, flush=True)
    try:
        return subprocess.run(command, cwd=cwd, env=env, timeout=LONG_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return False


def loud(line: str) -> None:
    bold = "\033[1;31m" if sys.stderr.isatty() else ""
    print(f"{bold}*** {line} ***{bold and chr(27) + '[0m'}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
