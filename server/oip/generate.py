"""Triton's generate extension: a language model continues a text, whole or as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.sampling_params import SamplingParams
from ...errors import InvalidRequest, NotFound
from ..context import RequestRecord, ServerContext
from ..errors import error_details, error_status
from ..generation import DeltaStream, Job, collect, encode, run, while_connected
from ..json_body import read_message
from ..openai.common import answer_bytes
from ..openai.params import or_default
from ..sse import StreamStyle, event, open_stream
from .failures import write_failure
from .names import VERSION
from .protocol import GenerateAnswer, GenerateBody, GenerateParameters

# Nothing marks the end.
STYLE = StreamStyle(
    failure=lambda error: event(write_failure(error_status(error), error_details(error))), end=b""
)


async def generate(
    context: ServerContext, request: Request, model: str, version: str | None, *, streams: bool
) -> Response:
    """Answers one request."""
    record: RequestRecord = request.state.record
    _check_model(context, model, version)
    context = await context.serving(model, record)
    body = await read_message(context, request, GenerateBody, unsupported={})
    parameters = merged_parameters(body)
    if parameters.stream not in (None, streams):
        right = "generate_stream" if parameters.stream else "generate"
        raise InvalidRequest(f"stream: /v2/models/{model}/{right} is the route for that", param="stream")
    if not body.text_input:
        raise InvalidRequest("text_input must not be empty", param="text_input")
    params = sampling_params(context, parameters)
    (tokens,) = await encode(context, [body.text_input], add_special_tokens=True)
    job = Job(prompts=[tokens], params=[params])
    before = echo(body, parameters, streams=streams)
    if streams:
        deltas = DeltaStream(run(context, record, job))
        return await open_stream(context, request, deltas, _events(model, body, deltas), STYLE)
    ((_, output),) = await while_connected(request.receive, collect(run(context, record, job)))

    def write() -> bytes:
        (part,) = output.outputs
        return msgspec.json.encode(
            GenerateAnswer(model, VERSION, before + part.text, body.id, part.finish_reason)
        )

    return Response(await context.offload(answer_bytes(output), write), media_type="application/json")


def _check_model(context: ServerContext, model: str, version: str | None) -> None:
    """Raises for what cannot be a language model that is served, or loaded when it is needed."""
    if model in context.language_models:
        if version not in (None, VERSION):
            raise NotFound(f"there is no version {version!r} of {model!r}, only {VERSION}", param="model")
    elif any(each.kind == "classic" for each in context.manager.index(model)):
        raise InvalidRequest(
            f"{model} is no language model: ask it at /v2/models/{model}/infer", param="model"
        )


def merged_parameters(body: GenerateBody) -> GenerateParameters:
    """Those beside the text and those under `parameters`, together."""
    inner = body.parameters or GenerateParameters()
    merged = GenerateParameters()
    for name in GenerateParameters.__struct_fields__:
        outside, inside = getattr(body, name), getattr(inner, name)
        if outside is not None and inside is not None:
            raise InvalidRequest(f"{name} is given twice: beside text_input and in parameters", param=name)
        setattr(merged, name, inside if outside is None else outside)
    return merged


def sampling_params(context: ServerContext, parameters: GenerateParameters) -> SamplingParams:
    """The engine's parameters; raises InvalidRequest naming the field."""
    defaults = context.engine.model_config.generation
    stop = [parameters.stop] if isinstance(parameters.stop, str) else list(parameters.stop or ())
    return SamplingParams(
        max_tokens=or_default(parameters.max_tokens, 16),
        min_tokens=or_default(parameters.min_tokens, 0),
        temperature=or_default(parameters.temperature, or_default(defaults.temperature, 1.0)),
        top_k=or_default(parameters.top_k, or_default(defaults.top_k, 0)),
        top_p=or_default(parameters.top_p, or_default(defaults.top_p, 1.0)),
        min_p=or_default(parameters.min_p, 0.0),
        presence_penalty=or_default(parameters.presence_penalty, 0.0),
        frequency_penalty=or_default(parameters.frequency_penalty, 0.0),
        repetition_penalty=or_default(
            parameters.repetition_penalty, or_default(defaults.repetition_penalty, 1.0)
        ),
        bad_words=or_default(parameters.bad_words, []),
        seed=parameters.seed,
        stop=[*stop, *(parameters.stop_words or ())],
        ignore_eos=parameters.ignore_eos is True,
    )


def echo(body: GenerateBody, parameters: GenerateParameters, *, streams: bool) -> str:
    """What stands before the new text: the prompt, as in Triton, unless the request does not want it."""
    excluded = parameters.exclude_input_in_output
    if streams and excluded is False:
        raise InvalidRequest(
            "exclude_input_in_output: a stream is of the new text alone", param="exclude_input_in_output"
        )
    return "" if streams or excluded else body.text_input


async def _events(model: str, body: GenerateBody, deltas: DeltaStream) -> AsyncGenerator[bytes, None]:
    async for batch in deltas:
        for _, output in batch:
            for part in output.outputs:
                if part.text or part.finish_reason is not None:
                    answer = GenerateAnswer(model, VERSION, part.text, body.id, part.finish_reason)
                    yield event(msgspec.json.encode(answer))
