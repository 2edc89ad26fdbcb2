"""The admin API of a server, from the command line."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ...errors import QuireError

PANEL = "Server"
TIMEOUT_SECONDS = 30.0

Url = Annotated[str, typer.Option("--url", envvar="QUIRE_URL", help="The server.", rich_help_panel=PANEL)]
AdminKey = Annotated[
    str | None,
    typer.Option(
        envvar=["QUIRE_ADMIN_KEY", "QUIRE_API_KEY"],
        help="Rather in the environment, as others can see a command line.",
        rich_help_panel=PANEL,
    ),
]
Why = Annotated[str, typer.Option(help="Stands in the audit log.")]
DEFAULT_URL = "http://127.0.0.1:8000"


class AdminClient:
    """One server.

    Args:
        url: Its address.
        key: The admin key, if there are keys.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a request. Raises `QuireError` with the server's own words if it is an error."""
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self._url + path, data, self._headers, method=method)
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise QuireError(_message(error)) from None
        except (OSError, ValueError) as error:
            raise QuireError(f"{self._url}: {getattr(error, 'reason', None) or error}") from None

    def deployment(self, method: str, name: str, rest: str = "", body: Any = None) -> dict[str, Any]:
        """The answer to a request for one deployment."""
        return self.ask(method, f"/admin/deployments/{quote(name, safe='')}{rest}", body)


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says went wrong."""
    with error:
        text = error.read().decode("utf-8", "replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered with status {error.code}: {text[:200]}"
