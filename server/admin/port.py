"""The admin port: a second listener of the same application that serves its admin routes alone.

What needs the admin key (`PathRules.add_admin`) is on the main port, unless there is an admin port: then it
is there, and only there. Routes on paths that also mean something else, such as `/models`, are never on the
main port: their dialects add them here.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from ...errors import QuireError
from ..errors import answer_http_exception, answer_quire_error

ON_ADMIN_PORT = "quire.on_admin_port"
"""The scope's key that is true for requests that came in by the admin port."""

MOVED = "this path is served on the admin port"


class AdminPort:
    """The admin port of one server.

    Attributes:
        is_apart: There is one, and admin routes are on no other.
    """

    def __init__(self) -> None:
        self.is_apart = False
        self._app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        self._app.add_exception_handler(QuireError, answer_quire_error)
        self._app.add_exception_handler(HTTPException, answer_http_exception)

    def add(self, router: APIRouter) -> None:
        """Serves routes on the admin port alone; all of them need the admin key."""
        self._app.include_router(router)

    def has(self, scope: Scope) -> bool:
        """Whether a request's path is one of those that are on this port alone."""
        return any(route.matches(scope)[0] is not Match.NONE for route in self._app.router.routes)

    def beside(self, app: ASGIApp) -> ASGIApp:
        """An application that answers what came in by this port with the port's own routes first."""

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            own = scope["type"] == "http" and is_on_admin_port(scope) and self.has(scope)
            await (self._app if own else app)(scope, receive, send)

        return dispatch

    def entrance(self, app: ASGIApp) -> ASGIApp:
        """What listens on the port: the application, told where its requests come from."""

        async def enter(scope: Scope, receive: Receive, send: Send) -> None:
            scope[ON_ADMIN_PORT] = True
            await app(scope, receive, send)

        return enter


def is_on_admin_port(scope: Scope) -> bool:
    """Whether a request came in by the admin port."""
    return bool(scope.get(ON_ADMIN_PORT))
