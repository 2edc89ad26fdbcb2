"""The admin API of deployments, and feedback."""

from __future__ import annotations

import dataclasses

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..json_body import read_message
from ..openapi import describe
from .deployment import Deployment
from .known_models import check_models
from .protocol import (
    ActionBody,
    AuditLog,
    AuditRecord,
    Deleted,
    DeploymentBody,
    DeploymentList,
    DeploymentStatus,
    DeploymentVersion,
    FeedbackAnswer,
    FeedbackBody,
)
from .spec import DeploymentSpec, read_spec

TYPES = (
    ActionBody,
    AuditLog,
    AuditRecord,
    Deleted,
    DeploymentBody,
    DeploymentList,
    DeploymentStatus,
    DeploymentVersion,
    FeedbackAnswer,
    FeedbackBody,
)
"""What the OpenAPI document defines."""

ADMIN = r"(GET|HEAD|POST|PUT|DELETE) /admin/(deployments(/.*)?|audit)"
MOST_ENTRIES = 1000
MOST_WHY_CHARACTERS = 1000
OPERATOR = "operator"
LARGEST_SCORE = 1e9


def deployment_routes(context: ServerContext) -> APIRouter:
    """Deployments: listed, made, changed, steered and deleted, with the admin key; and scored, with any."""
    router = APIRouter(tags=["deployments"])
    context.paths.add_admin(ADMIN)
    deployments = context.deployments

    @router.get("/admin/deployments", **describe("All deployments", answer=DeploymentList, errors=(403,)))
    async def list_all() -> Response:
        return _json({"deployments": [deployment.describe() for deployment in deployments]})

    @router.post(
        "/admin/deployments",
        **describe("Make a deployment", body=DeploymentBody, answer=DeploymentStatus, errors=(403, 409)),
    )
    async def create(request: Request) -> Response:
        body = await read_message(context, request, DeploymentBody, unsupported={})
        spec = _spec(context, body, body.name)
        return _status(deployments.create(spec, _who(request), _why(body.why)))

    @router.get(
        "/admin/deployments/{name}",
        **describe("A deployment", answer=DeploymentStatus, path=("name",), errors=(403, 404)),
    )
    async def show(request: Request) -> Response:
        return _status(deployments.get(request.path_params["name"]))

    @router.put(
        "/admin/deployments/{name}",
        **describe(
            "Make a deployment, or change it: its rollout begins anew",
            body=DeploymentBody,
            answer=DeploymentStatus,
            path=("name",),
            errors=(403,),
        ),
    )
    async def put(request: Request) -> Response:
        name: str = request.path_params["name"]
        body = await read_message(context, request, DeploymentBody, unsupported={})
        if body.name not in (None, name):
            raise InvalidRequest(f"the path names {name[:200]!r} and the body {body.name!r}", param="name")
        spec = _spec(context, body, name)
        make = deployments.create if deployments.find(name) is None else deployments.change
        return _status(make(spec, _who(request), _why(body.why)))

    @router.delete(
        "/admin/deployments/{name}",
        **describe(
            "Delete a deployment; requests that run end where they are",
            answer=Deleted,
            path=("name",),
            errors=(403, 404),
        ),
    )
    async def delete(request: Request) -> Response:
        name: str = request.path_params["name"]
        deployments.delete(name, _who(request), "")
        return _json(Deleted(name))

    @router.get(
        "/admin/deployments/{name}/audit",
        **describe("Its decisions, the newest first", answer=AuditLog, path=("name",), errors=(400, 403)),
    )
    async def audit(request: Request) -> Response:
        return await _audit(context, request, request.path_params["name"])

    @router.get(
        "/admin/audit", **describe("All decisions, the newest first", answer=AuditLog, errors=(400, 403))
    )
    async def audit_all(request: Request) -> Response:
        return await _audit(context, request, None)

    @router.post(
        "/admin/deployments/{name}/{action}",
        **describe(
            "Steer a deployment: promote, rollback, pause, resume, restart or switch, as its strategy has it",
            body=ActionBody,
            answer=DeploymentStatus,
            path=("name", "action"),
            errors=(403,),
        ),
    )
    async def act(request: Request) -> Response:
        body = await read_message(context, request, ActionBody, unsupported={})
        name, action = request.path_params["name"], request.path_params["action"]
        return _status(deployments.act(name, action, _who(request), _why(body.why), body.version))

    @router.post(
        "/v1/feedback",
        **describe("Say how good an answer of a deployment was", body=FeedbackBody, answer=FeedbackAnswer),
    )
    async def feedback(request: Request) -> Response:
        body = await read_message(context, request, FeedbackBody, unsupported={})
        record: RequestRecord = request.state.record
        if abs(body.score) > LARGEST_SCORE:
            raise InvalidRequest(
                f"score must be at most {LARGEST_SCORE:g} in size, got {body.score}", param="score"
            )
        answer = deployments.feedback(body.request_id, body.score, record.key_digest)
        return _json(FeedbackAnswer(answer.deployment.name, answer.version))

    _ = (list_all, create, show, put, delete, audit, audit_all, act, feedback)
    return router


def _spec(context: ServerContext, body: DeploymentBody, name: str | None) -> DeploymentSpec:
    """A checked spec, whose models there are."""
    value = {"versions": body.versions, "strategy": body.strategy, "sticky": body.sticky}
    spec = read_spec(value if name is None else value | {"name": name})
    check_models(context.manager, spec)
    return spec


def _who(request: Request) -> str:
    """The name of the operator's key."""
    record: RequestRecord = request.state.record
    return OPERATOR if record.key is None else record.key.name


def _why(text: str) -> str:
    if len(text) > MOST_WHY_CHARACTERS:
        raise InvalidRequest(
            f"why may have at most {MOST_WHY_CHARACTERS} characters, got {len(text)}", param="why"
        )
    return text or "an operator asked for it"


async def _audit(context: ServerContext, request: Request, name: str | None) -> Response:
    limit, before = _number(request, "limit", 100), _number(request, "before", None)
    if strangers := sorted(set(request.query_params) - {"limit", "before"}):
        raise InvalidRequest(f"unknown parameter: {strangers[0][:100]!r}", param=strangers[0][:100])
    assert limit is not None
    if limit > MOST_ENTRIES:
        raise InvalidRequest(f"limit may be at most {MOST_ENTRIES}, got {limit}", param="limit")
    entries = await context.deployments.audit(name, limit, before)
    return _json({"entries": [dataclasses.asdict(entry) for entry in entries]})


def _number(request: Request, name: str, default: int | None) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 18 and int(text) > 0):
        raise InvalidRequest(f"{name} must be a whole number from 1, not {text[:40]!r}", param=name)
    return int(text)


def _status(deployment: Deployment) -> Response:
    return _json(deployment.describe())


def _json(message: object) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")
