"""The tokens of a text in TGI's form, each with its place in the text."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.responses import Response

from ...models.tokenizer import Tokenizer
from ..context import RequestRecord, ServerContext
from ..generation import encode
from ..json_body import convert
from .protocol import TgiPlacedToken, TgiTokenizeRequest


async def tokenize(context: ServerContext, record: RequestRecord, value: dict[str, object]) -> Response:
    """`/tokenize` for a body with `inputs`."""
    body = convert(value, TgiTokenizeRequest, {})
    context = await context.serving(None, record)
    (tokens,) = await encode(context, [body.inputs], add_special_tokens=body.add_special_tokens is not False)

    def write() -> bytes:
        return msgspec.json.encode(placed(context.engine.tokenizer, tokens))

    return Response(await context.offload(50 * len(tokens), write), media_type="application/json")


def placed(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[TgiPlacedToken]:
    """Tokens with the places of their characters in the text that they make, special ones included."""
    spelled = tokenizer.stream(skip_special_tokens=False)
    result: list[TgiPlacedToken] = []
    start = 0
    for token in tokens:
        stop = start + len(spelled.push([token]))
        result.append(TgiPlacedToken(token, tokenizer.token_text(token), start, stop))
        start = stop
    return result
