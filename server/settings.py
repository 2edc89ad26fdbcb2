"""The HTTP server's limits and switches, each with the reason for its default."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from .keys import ADMIN, DEFAULT, ApiKey, KeyRing, read_keys
from .reasoning_parsers import REASONING_PARSERS, WITH_TOOLS
from .tool_parsers import TOOL_PARSERS

API_KEY_VARIABLE = "QUIRE_API_KEY"
API_KEY_FILE_VARIABLE = "QUIRE_API_KEY_FILE"
ADMIN_KEY_VARIABLE = "QUIRE_ADMIN_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Every limit is on by default. Sizes are in bytes, times in seconds.

    Raises ValueError naming the setting if one is out of range.

    Attributes:
        api_key: What clients must send as `Authorization: Bearer`; None for no key. It comes from
            the environment or from a file, never from the command line, where `ps` shows it.
        api_keys: Keys with names and limits, besides or instead.
        insecure: Allow an address that other machines reach without an API key.
        max_body_bytes: A larger body is refused with 413 while it is read.
        max_buffered_bytes: Bodies that are being read or parsed, of all requests together; what
            exceeds it is refused with 429.
        body_timeout: A body that takes longer is refused with 408.
        max_header_bytes: Request line and headers together; more is refused with 431.
        max_headers: The number of headers; more are refused with 431.
        header_timeout: Headers that take longer, counted from the connection or from the first
            byte of the next request, are refused with 408.
        keep_alive_timeout: An idle connection is closed after this time.
        max_json_depth: Deeper JSON is refused.
        max_json_values: JSON with more values is refused: each costs some 60 bytes once parsed.
        inline_bytes: What is longer than this is parsed, tokenised or written in a thread, so that
            the event loop goes on.
        max_prompts: Prompts in one request.
        max_sequences: Prompts times choices in one request.
        max_stored_responses: Responses that are remembered for later turns; the longest unused is
            forgotten first.
        max_stored_bytes: The memory that they take, about.
        keep_alive_interval: A silent stream carries a comment line this often, so that proxies do
            not cut it. A stream whose first token takes longer is opened without one.
        request_timeout: A request that is not done after this time, in the queue or in the batch, is
            ended with 408. Requests may ask for less.
        send_timeout: A client that takes no data for so long is cut off.
        drain_timeout: On SIGTERM, running requests have this long to finish.
        tool_call_parser: The format in which the model writes calls: a name in
            `tool_parsers.TOOL_PARSERS`, "auto" for what chat template and vocabulary show, "none".
        reasoning_parser: How the model marks reasoning: a name in
            `reasoning_parsers.REASONING_PARSERS` or of a tool parser that reads it too, "auto", "none".
        vertex_health_route, vertex_predict_route: Paths that Vertex AI asks at, from its environment.
        sagemaker_multi_model: Whether SageMaker loads and unloads models at `/models`, on this port.
        model_store: The folder from which models are loaded by name over the admin API and by SageMaker;
            None for none.
        deployments_file: Keeps the deployments, how far they have come and their audit log; None keeps
            them in memory. One server has a file.
        ssl_certfile, ssl_keyfile: PEM files of a certificate with its chain, and of its key if that is not
            in the same file: HTTP, and gRPC, are then spoken over TLS alone.
        trust_request_chat_template: Whether a request may bring a chat template: a program, if in
            a sandbox, that may run for long.
    """

    api_key: str | None = field(default=None, repr=False)
    api_keys: tuple[ApiKey, ...] = field(default=(), repr=False)
    insecure: bool = False
    max_body_bytes: int = 16 * 1024 * 1024
    max_buffered_bytes: int = 256 * 1024 * 1024
    body_timeout: float = 30.0
    max_header_bytes: int = 64 * 1024
    max_headers: int = 128
    header_timeout: float = 10.0
    keep_alive_timeout: int = 30
    max_json_depth: int = 64
    max_json_values: int = 1 << 19
    inline_bytes: int = 32 * 1024
    max_prompts: int = 1024
    max_sequences: int = 1024
    max_stored_responses: int = 1024
    max_stored_bytes: int = 64 * 1024 * 1024
    keep_alive_interval: float = 15.0
    request_timeout: float = 600.0
    send_timeout: float = 60.0
    drain_timeout: float = 30.0
    tool_call_parser: str = "auto"
    reasoning_parser: str = "auto"
    vertex_health_route: str | None = None
    vertex_predict_route: str | None = None
    sagemaker_multi_model: bool = False
    model_store: Path | None = None
    trust_request_chat_template: bool = False
    deployments_file: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        for name in ("vertex_health_route", "vertex_predict_route"):
            route = getattr(self, name)
            if route is not None and not re.fullmatch(r"(/[\w.:~-]+)+", route, re.ASCII):
                raise ValueError(f"{name} must be a path, such as /v1/predict, got {route!r}")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError("ssl_keyfile has no meaning without ssl_certfile")
        self.key_ring()  # which checks the keys
        self._check_parsers()

    def key_ring(self) -> KeyRing:
        """All keys."""
        one = () if self.api_key is None else (ApiKey(DEFAULT, self.api_key),)
        return KeyRing((*one, *self.api_keys))

    def _check_parsers(self) -> None:
        calls, thoughts = self.tool_call_parser, self.reasoning_parser
        for name, value, known in (
            ("tool_call_parser", calls, TOOL_PARSERS),
            ("reasoning_parser", thoughts, (*REASONING_PARSERS, *WITH_TOOLS)),
        ):
            if value not in ("auto", "none", *known):
                raise ValueError(f"{name} must be one of auto, none, {', '.join(known)}, got {value!r}")
        if thoughts in WITH_TOOLS and calls not in ("auto", thoughts):
            raise ValueError(
                f"reasoning_parser {thoughts!r} reads calls, too, and cannot go with "
                f"tool_call_parser {calls!r}"
            )
        if calls in WITH_TOOLS and thoughts not in ("auto", "none", calls):
            raise ValueError(
                f"tool_call_parser {calls!r} reads reasoning, too, and cannot go with "
                f"reasoning_parser {thoughts!r}"
            )


def read_api_keys(file: Path | None = None) -> tuple[ApiKey, ...]:
    """All keys that there are: in QUIRE_API_KEY, in QUIRE_ADMIN_KEY, and in a file.

    Args:
        file: Holds keys as `keys` describes; by default the one that QUIRE_API_KEY_FILE names, if any.

    Raises:
        ValueError: A variable is set, or a file named, and gives no key, or a key is wrong.
    """
    keys: list[ApiKey] = []
    for variable, name in ((API_KEY_VARIABLE, DEFAULT), (ADMIN_KEY_VARIABLE, ADMIN)):
        secret = os.environ.get(variable)
        if secret is not None:
            if not secret.strip():
                raise ValueError(f"{variable} is set but empty; unset it to serve without this key")
            keys.append(ApiKey(name, secret.strip()))
    path = os.environ.get(API_KEY_FILE_VARIABLE)
    if file is not None:
        keys += read_keys(file, "--api-key-file")
    elif path is not None:
        keys += read_keys(Path(path), API_KEY_FILE_VARIABLE)
    return tuple(keys)


def check_bind_address(host: str, settings: ServerSettings) -> None:
    """Raises ValueError if other machines would reach the server and no API key is set."""
    if settings.key_ring() or settings.insecure:
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        raise ValueError(
            f"{host} can be reached from other machines, and no API key is set: set {API_KEY_VARIABLE} "
            f"or {API_KEY_FILE_VARIABLE}, or allow it with --insecure"
        )
