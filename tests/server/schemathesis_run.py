"""`make schemathesis`: a real server against its own OpenAPI document, with requests that break it. By hand:

    python tests/server/schemathesis_run.py ST [OPTION ...]

ST is schemathesis' own command, from an environment of its own; options are handed on to it, such as
`--seed`. No operation, status or check of those below is left out: no answer may be a 5xx, have a status, a
content type or headers that the document does not name, or a body that is not as it says.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
PORT = 8799


def main(st: str, *options: str) -> int:
    """Serves, runs schemathesis, and returns its exit status."""
    url = f"http://127.0.0.1:{PORT}"
    serve = [sys.executable, "-m", "quire", "serve", "embedded", "--port", str(PORT)]
    few = ("--num-blocks", "1024", "--max-model-len", "256", "--log-level", "error")
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen([*serve, *few], cwd=folder) as server:
        try:
            wait_for(f"{url}/ready", server)
            run = [str(Path(st).resolve()), "run", f"{url}/openapi.json", "--mode", "negative"]
            how = ("--phases", "coverage,fuzzing", "--checks", ",".join(CHECKS), "--continue-on-failure")
            done = subprocess.run([*run, *how, *options], cwd=folder, check=False)
            wait_for(f"{url}/ready", server)
        finally:
            server.terminate()
    return done.returncode


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Waits until the address answers; fails if the server has ended."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server has ended")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
