"""`/tokenize` in llama.cpp's form."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from ..context import RequestRecord, ServerContext
from ..generation import encode
from ..json_body import convert
from .protocol import LlamaPiece, LlamaTokenizeRequest, LlamaTokens

# Special tokens that a text spells out are always read as such.
UNSUPPORTED: dict[str, tuple[object, ...]] = {"parse_special": (True,)}


async def tokenize(context: ServerContext, record: RequestRecord, value: dict[str, object]) -> Response:
    """The tokens of a text."""
    body = convert(value, LlamaTokenizeRequest, UNSUPPORTED)
    context = await context.serving(None, record)
    (tokens,) = await encode(context, [body.content], add_special_tokens=body.add_special is True)

    def write() -> bytes:
        shown: list[int | LlamaPiece] = [*tokens]
        if body.with_pieces:
            shown = [LlamaPiece(token, _piece(context, token)) for token in tokens]
        return msgspec.json.encode(LlamaTokens(shown))

    return Response(await context.offload(20 * len(tokens), write), media_type="application/json")


def _piece(context: ServerContext, token: int) -> str | list[int]:
    data = context.engine.tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
