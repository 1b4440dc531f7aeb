"""fal-client's own tests, from its source distribution, against us: `python -m tests.contract.fal_suite`.

They were written for the live cloud. Nothing of them is changed or kept: fal's host names lead here by name
and TLS (names.py, `realtime certs`), and RT_TEST_APPS serves the one app they need that is no image model.
Further arguments go to pytest. Exit status: pytest's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from realtime.certs import issue
from tests.contract.ways import KEY
from tests.servers import serve

HERE = Path(__file__).parent
LIMIT_S = 900


def main(given: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="fal-suite-") as scratch:
        tests = source(Path(scratch)) / "tests"
        made = issue(Path(scratch) / "certs")
        tls = {"tls_cert": str(made.server), "tls_key": str(made.server_key)}
        with serve(keys=[KEY], test_apps=True, **tls) as server:
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("FAL_", "RT_"))}
            environment |= {
                "FAL_KEY": KEY,
                "FAL_NAMES_PORT": str(server.port),
                "SSL_CERT_FILE": str(made.authority),
                "PYTHONPATH": str(HERE),
            }
            options = "-p names -q -o asyncio_mode=auto -W ignore::pytest.PytestDeprecationWarning"
            command = [sys.executable, "-m", "pytest", *options.split(), *given, "tests"]
            run = subprocess.run(command, cwd=tests.parent, env=environment, timeout=LIMIT_S)
            print(f"{server.metric('realtime_http_requests_total'):.0f} requests reached this server")
            return run.returncode


def source(folder: Path) -> Path:
    """The unpacked source distribution of the fal-client that is installed here."""
    wanted = f"fal-client=={version('fal-client')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
    subprocess.run([*pip, *options, wanted], check=True, timeout=LIMIT_S)
    (archive,) = folder.glob("fal_client-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir() and re.match("fal_client-", path.name))
    return unpacked


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
