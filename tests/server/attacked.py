"""A real server that is sent bad inputs, and what its answers must look like in each dialect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from .quire_process import PATIENCE, QuireProcess

KEY, ADMIN_KEY = "sk-alice-0123456789", "sk-admin-0123456789"
HEADER_TIMEOUT, BODY_TIMEOUT = 3.0, 8.0  # the server's; its defaults are 10 and 30 s
JSON = {"content-type": "application/json"}
COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
MESSAGES, OLLAMA, OLLAMA_CHAT, TGI, LLAMA = (
    "/v1/messages",
    "/api/generate",
    "/api/chat",
    "/generate",
    "/completion",
)
HI = [{"role": "user", "content": "hi"}]
SMALLEST: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": "a", "max_tokens": 4},
    CHAT: {"messages": HI, "max_tokens": 4},
    RESPONSES: {"input": "a", "max_output_tokens": 4},
    MESSAGES: {"model": "embedded", "messages": HI, "max_tokens": 4},
    OLLAMA: {"model": "embedded", "prompt": "a", "stream": False, "options": {"num_predict": 4}},
    OLLAMA_CHAT: {"model": "embedded", "messages": HI, "stream": False, "options": {"num_predict": 4}},
    TGI: {"inputs": "a", "parameters": {"max_new_tokens": 4}},
    LLAMA: {"prompt": "a", "n_predict": 4},
    "/v1/embeddings": {"input": "a"},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5]},
}
"""The smallest good request of each route that rows below change one field of."""
TGI_PATHS = (
    *("/", "/generate", "/generate_stream", "/chat_tokenize", "/info"),
    *("/embed", "/predict", "/similarity"),  # of its sister for encoders
)
FORMS: dict[str, dict[str, set[str] | None]] = {
    "/v1/messages(/.*)?": {"type": None, "error": {"type", "message"}},
    "/api/.*": {"error": None},
    "|".join(TGI_PATHS): {"error": None, "error_type": None},
    "/completions?|/apply-template|/props|/slots(/.*)?|/infill|/embeddings?|/reranking|/lora-adapters": {
        "error": {"code", "message", "type"}
    },
    "/v2(?!/rerank$)(/.*)?": {"error": None},
    "/v1/models/.*(:|/metadata|/versions/|/labels/).*": {"error": None},
    "/(predictions|explanations)/.*": {"code": None, "type": None, "message": None},
}
"""Errors that do not look like OpenAI's: their keys, and those of the value where it has some."""


@dataclass
class Target:
    """A server under test."""

    server: QuireProcess
    client: httpx.AsyncClient
    notes: list[str] = field(default_factory=list)

    async def post(self, path: str, content: bytes, headers: dict[str, str] = JSON) -> httpx.Response:
        return await self.client.post(path, content=content, headers=headers)

    async def refuses(self, status: int, path: str, **fields: Any) -> dict[str, Any]:
        """Sends the route's smallest request with some fields changed; the error object."""
        body = json.dumps(SMALLEST[path] | fields).encode()
        return refusal(path, await self.post(path, body), status, body)

    async def accepts(self, path: str, **fields: Any) -> dict[str, Any]:
        response = await self.post(path, json.dumps(SMALLEST[path] | fields).encode())
        assert response.status_code == 200, (path, fields, response.text[:400])
        return response.json()

    async def paths_with_bodies(self) -> list[str]:
        """The documented routes that take JSON and need neither the admin key nor a classic model."""
        document = (await self.client.get("/openapi.json")).json()
        return [
            path
            for path, methods in document["paths"].items()
            if "application/json" in methods.get("post", {}).get("requestBody", {}).get("content", {})
            and not re.search("{|/admin/", path)
        ]

    async def raw(self, *pieces: bytes, pause: float = 0.0) -> tuple[int, bytes]:
        """Sends bytes as they are, until there is an answer: status and body."""
        url = httpx.URL(self.server.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        answer = asyncio.create_task(read_answer(reader))
        try:
            for piece in pieces:
                if answer.done():
                    break
                with contextlib.suppress(ConnectionError):
                    writer.write(piece)
                    await writer.drain()
                await asyncio.wait({answer}, timeout=pause)
            return await asyncio.wait_for(answer, PATIENCE)
        finally:
            answer.cancel()
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of an answer whose length is stated."""
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = re.findall(rb"content-length: (\d+)", head.lower())
    return int(head.split()[1]), await reader.readexactly(int(length))


def refusal(path: str, response: httpx.Response, status: int, sent: object = None) -> dict[str, Any]:
    """The answer's error, which must have the status and the form of the route's dialect."""
    if path in TGI_PATHS and status == 400:
        status = 422  # its word for what is wrong with a request
    shown = sent if not isinstance(sent, bytes) or len(sent) < 300 else sent[:300]
    assert response.status_code == status, (path, shown, response.status_code, response.text[:400])
    return check_error_form(path, response.json())


def check_error_form(path: str, answer: Any) -> dict[str, Any]:
    """The error's details; fails if they are not in the form of the path's dialect."""
    expected = {"error": {"message", "type", "param", "code"}}
    for pattern, form in FORMS.items():
        if re.fullmatch(pattern, path):
            expected = form
    assert isinstance(answer, dict), path
    assert set(answer) == set(expected), (path, answer)
    for name, keys in expected.items():
        assert answer[name] if keys is None else set(answer[name]) == keys, (path, answer)
    details = answer.get("error", answer)
    return details if isinstance(details, dict) else answer | {"message": details}


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    """A request's head with the key, up to the empty line, which is not there yet."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


async def logged(server: QuireProcess, mark: str, at_least: int) -> list[str]:
    """The log's lines with a mark, once so many have been written."""
    deadline = time.monotonic() + PATIENCE
    lines: list[str] = []
    while len(lines) < at_least and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        lines = [line for line in server.log.read_text().splitlines() if mark in line]
    return lines


@contextlib.contextmanager
def stopwatch(target: Target, what: str) -> Iterator[None]:
    """Notes how long something took."""
    started = time.monotonic()
    yield
    target.notes.append(f"{what}: {time.monotonic() - started:.2f} s")


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, Callable[[], int]]]:
    """An address of this machine, and how many have connected to it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)

        def num_connections() -> int:
            number = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
                    number += 1
            return number

        yield f"http://127.0.0.1:{listener.getsockname()[1]}", num_connections


def routes_of(app: Any, known: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Method and path of every route of an application, placeholders filled in."""
    found = {
        (method, re.sub(r"\{.*?\}", "x", route.path))
        for route in flat(app.routes)
        for method in route.methods or ()
    }
    return sorted(found | {("GET", path) for path in known})


def flat(routes: Sequence[Any]) -> Iterator[Any]:
    """Routes, with those of the routers among them, which newer FastAPIs keep apart."""
    for route in routes:
        router = getattr(route, "original_router", None)
        yield from [route] if router is None else flat(router.routes)
