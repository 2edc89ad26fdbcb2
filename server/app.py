"""The application: routes of every dialect behind one gate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from .. import __version__
from ..engine.model_manager import ModelManager
from ..errors import QuireError
from . import openapi
from .admin.models import TYPES as ADMIN_MODEL_TYPES
from .admin.models import admin_model_routes
from .anthropic.routes import TYPES as ANTHROPIC_TYPES
from .anthropic.routes import anthropic_routes
from .bentoml.routes import TYPES as BENTOML_TYPES
from .bentoml.routes import bentoml_routes
from .classic_metrics import ClassicCollector
from .context import ServerContext, ServerState
from .deployments.known_models import kind_of
from .deployments.manager import Deployments
from .deployments.metrics import DeploymentCollector
from .deployments.retry import DeployedApp
from .deployments.routes import TYPES as DEPLOYMENT_TYPES
from .deployments.routes import deployment_routes
from .errors import answer_http_exception, answer_quire_error
from .gate import RequestGate
from .health import TYPES as HEALTH_TYPES
from .health import health_routes
from .hot_gate import Application
from .language_models import LanguageModels
from .live import TYPES as LIVE_TYPES
from .live import live_routes
from .llama_cpp.routes import TYPES as LLAMA_CPP_TYPES
from .llama_cpp.routes import llama_cpp_routes
from .metrics import Metrics
from .oip.routes import TYPES as OIP_TYPES
from .oip.routes import oip_routes
from .ollama.routes import TYPES as OLLAMA_TYPES
from .ollama.routes import ollama_routes
from .openai.classify import TYPES as CLASSIFY_TYPES
from .openai.classify import classify_routes
from .openai.embeddings import TYPES as EMBEDDING_TYPES
from .openai.embeddings import embedding_routes
from .openai.pooling import TYPES as POOLING_TYPES
from .openai.pooling import pooling_routes
from .openai.routes import TYPES as OPENAI_TYPES
from .openai.routes import openai_routes
from .openai.scores import TYPES as SCORE_TYPES
from .openai.scores import score_routes
from .page import page_routes
from .responses.routes import TYPES as RESPONSES_TYPES
from .responses.routes import responses_routes
from .sagemaker.multi_model import TYPES as MULTI_MODEL_TYPES
from .sagemaker.multi_model import multi_model_routes
from .sagemaker.routes import sagemaker_routes
from .settings import ServerSettings
from .tei.routes import TYPES as TEI_TYPES
from .tei.routes import tei_routes
from .tf_serving.routes import TYPES as TF_SERVING_TYPES
from .tf_serving.routes import tf_serving_routes
from .tgi.routes import TYPES as TGI_TYPES
from .tgi.routes import tgi_routes
from .tokens import TYPES as TOKEN_TYPES
from .tokens import token_routes
from .torchserve.management_routes import add_management_routes
from .torchserve.routes import TYPES as TORCHSERVE_TYPES
from .torchserve.routes import torchserve_routes
from .vertex.routes import TYPES as VERTEX_TYPES
from .vertex.routes import vertex_routes

if TYPE_CHECKING:
    from ..engine.async_engine import AsyncEngine
    from ..engine.data_plane import DataPlane

TYPES = (
    *HEALTH_TYPES,
    *LIVE_TYPES,
    *DEPLOYMENT_TYPES,
    *ADMIN_MODEL_TYPES,
    *OPENAI_TYPES,
    *EMBEDDING_TYPES,
    *POOLING_TYPES,
    *SCORE_TYPES,
    *CLASSIFY_TYPES,
    *RESPONSES_TYPES,
    *ANTHROPIC_TYPES,
    *OLLAMA_TYPES,
    *TGI_TYPES,
    *TEI_TYPES,
    *TF_SERVING_TYPES,
    *LLAMA_CPP_TYPES,
    *OIP_TYPES,
    *TOKEN_TYPES,
    *TORCHSERVE_TYPES,
    *MULTI_MODEL_TYPES,
    *VERTEX_TYPES,
    *BENTOML_TYPES,
)
"""What the OpenAPI document defines."""


def create_app(
    engines: AsyncEngine | Mapping[str, AsyncEngine],
    settings: ServerSettings | None = None,
    models: DataPlane | None = None,
    deployments: Deployments | None = None,
    manager: ModelManager | None = None,
) -> FastAPI:
    """The ASGI application over started engines, which stay the caller's to shut down.

    `app.state.context` is its `ServerContext`.

    Args:
        engines: The language models' by the names that clients use, the default one first; or one engine,
            whose configuration names it. More can be added to `context.language_models` while it serves.
        settings: Limits and switches.
        models: The classic models, whose registry stays the caller's to close; None for none.
        deployments: They stay the caller's to close; by default, those that a restart forgets.
        manager: Has further models, and stays the caller's to close; by default one with these.
    """
    metrics = Metrics()
    language_models = LanguageModels(metrics)
    manager = manager or ModelManager()
    named = engines if isinstance(engines, Mapping) else {engines.config.model_name: engines}
    for name, engine in named.items():
        manager.adopt_engine(name, engine)
    if models is not None:
        manager.use_registry(models.registry)
    manager.connect(language_models)
    language_models.load = manager.ensure_engine
    state = ServerState(
        settings=settings or ServerSettings(),
        metrics=metrics,
        language_models=language_models,
        manager=manager,
        plane=models,
        deployments=deployments or Deployments(),
    )
    context = ServerContext(state)
    context.deployments.kind_of = partial(kind_of, manager)
    metrics.registry.register(DeploymentCollector(context.deployments))
    metrics.registry.register(ClassicCollector(manager))
    if models is not None:
        context.prepare(models)
    app = Application(
        title="quire",
        version=__version__,
        docs_url=None,  # its page would load scripts from the network
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.context = context
    app.add_exception_handler(QuireError, answer_quire_error)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_middleware(context.admin.beside)
    app.add_middleware(DeployedApp, context=context)
    app.open_hot_routes(context)
    app.add_middleware(RequestGate, context=context)  # outside of all others
    for routes in (
        health_routes,
        live_routes,
        deployment_routes,
        admin_model_routes,
        tf_serving_routes,  # before OpenAI's: the names of its models may hold slashes
        openai_routes,
        embedding_routes,
        pooling_routes,
        score_routes,
        classify_routes,
        responses_routes,
        anthropic_routes,
        ollama_routes,
        tgi_routes,
        tei_routes,
        llama_cpp_routes,
        oip_routes,
        token_routes,
        torchserve_routes,
        sagemaker_routes,
        multi_model_routes,
        vertex_routes,
    ):
        app.include_router(routes(context))
    add_management_routes(context)
    app.include_router(page_routes())
    app.include_router(bentoml_routes(context))  # last: its paths are models' names
    openapi.install(app, TYPES)
    return app
