"""`/` and `/ui/`: the web page, which is a handful of files without a build step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from .errors import RouteNotFound
from .gate import wants_page

FOLDER = Path(__file__).parent / "ui"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".yml": "application/yaml",
}
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # The browser itself refuses what would turn a model's text into markup.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # asked again each time, and answered with 304
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page, in memory."""

    content: bytes
    media_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        """The file, or 304 if the browser has it already."""
        headers = HEADERS | {"etag": self.etag}
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def read_files(folder: Path = FOLDER) -> dict[str, PageFile]:
    """The page's files by name; no path of a client's is ever looked up on the disk."""
    files: dict[str, PageFile] = {}
    for path in sorted(folder.iterdir()):
        if (media_type := MEDIA_TYPES.get(path.suffix)) is not None:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            files[path.name] = PageFile(content, media_type, etag)
    return files


def page_routes() -> APIRouter:
    """The page for browsers; for others, a word that the server is there."""
    router = APIRouter(include_in_schema=False)
    files = read_files()

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        if wants_page(request.headers.get("accept", "").encode("latin-1")):
            response = files["index.html"].answer(request)
        else:
            # The words by which Ollama's clients know that a server is up.
            response = PlainTextResponse("Ollama is running")
        response.headers["vary"] = "accept"
        return response

    @router.api_route("/ui/{name}", methods=["GET", "HEAD"])
    async def file(request: Request) -> Response:
        name: str = request.path_params["name"]
        if name not in files:
            raise RouteNotFound(f"the page has no file {name[:100]!r}", code="route_not_found")
        return files[name].answer(request)

    _ = (index, file)
    return router
