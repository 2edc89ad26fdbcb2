"""A language model by ModelStreamInfer: one request, the text as it comes, as Triton's vLLM backend has it.

The inputs are `text_input`; `stream`, without which there is one answer; `exclude_input_in_output`; and
`sampling_parameters`, a JSON object of what `/generate` takes beside the text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ...errors import InvalidRequest
from .. import strict_json
from ..context import RequestRecord, ServerContext
from ..generation import Job, collect, encode, run
from ..json_body import convert
from . import tensors
from .generate import echo, merged_parameters, sampling_params
from .grpc_infer import read_request, write_answer
from .infer import Ask
from .names import VERSION
from .protocol import GenerateBody

INPUTS = {
    "text_input": "BYTES",
    "stream": "BOOL",
    "exclude_input_in_output": "BOOL",
    "sampling_parameters": "BYTES",
}


async def generate(context: ServerContext, record: RequestRecord, message: Any) -> AsyncGenerator[Any]:
    """The answers to one request; raises as the engine does."""
    context = await context.serving(message.model_name, record)
    ask = read_request(message)
    if ask.parameters or ask.choices or ask.names not in (None, ["text_output"]):
        raise InvalidRequest(
            "a language model takes no parameters but those in sampling_parameters, and gives text_output",
            param="parameters",
        )
    body = _body(ask, context)
    streams = body.stream is True
    parameters = merged_parameters(body)
    before = echo(body, parameters, streams=streams)
    if not body.text_input:
        raise InvalidRequest("text_input must not be empty", param="text_input")
    (tokens,) = await encode(context, [body.text_input], add_special_tokens=True)
    job = Job(prompts=[tokens], params=[sampling_params(context, parameters)])

    def answer(text: str) -> Any:
        outputs = {"text_output": tensors.texts([text])}
        return write_answer(message.model_name, VERSION, message.id, ask, outputs, batched=False)

    if not streams:
        ((_, output),) = await collect(run(context, record, job))
        yield answer(before + output.outputs[0].text)
        return
    async with aclosing(run(context, record, job)) as batches:
        async for batch in batches:
            for _, output in batch:
                for part in output.outputs:
                    if part.text:
                        yield answer(part.text)


def _body(ask: Ask, context: ServerContext) -> GenerateBody:
    """The body that /generate would be sent."""
    value: dict[str, object] = {}
    for name, array in ask.arrays.items():
        kind = INPUTS.get(name)
        if kind is None:
            raise InvalidRequest(
                f"there is no input {name[:120]!r}, only {', '.join(INPUTS)}", param="inputs"
            )
        if tensors.datatype(array.dtype) != kind or array.size != 1:
            raise InvalidRequest(f"input {name} must be one value of {kind}", param="inputs")
        (item,) = array.ravel().tolist()
        if isinstance(item, bytes) and name == "text_input":
            try:
                item = item.decode()
            except UnicodeDecodeError as error:
                raise InvalidRequest(f"text_input is not UTF-8: {error.reason}", param="text_input") from None
        value[name] = item
    given = value.pop("sampling_parameters", None)
    if isinstance(given, bytes):
        settings = context.settings
        value["parameters"] = strict_json.parse(
            given, max_depth=settings.max_json_depth, max_values=settings.max_json_values
        )
    return convert(value, GenerateBody, {})
