"""Every error that quire raises on purpose, each with the HTTP status it is answered with.

The lowest layer of the package: everything may import it, it imports nothing. An error that
is not a `QuireError` is a defect: clients see an opaque 500 and the log has the traceback.
"""

from __future__ import annotations


class QuireError(Exception):
    """Base of quire's errors.

    Attributes:
        status: HTTP status of the answer.
        type: The `error.type` of the OpenAI error object.
        code: The `error.code`, a stable word for programs, or None.
        param: The request parameter at fault, or None.
    """

    status: int = 500
    type: str = "engine_error"
    default_code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code


class InvalidRequest(QuireError, ValueError):
    """A value in the request cannot be honoured; the message names the value."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt and the tokens asked for, do not fit the model's context."""

    default_code = "context_length_exceeded"


class NotFound(QuireError):
    """No such model or resource."""

    status = 404
    type = "not_found_error"
    default_code = "model_not_found"


class RequestTimeout(QuireError):
    """The client took too long to send its request, or the engine to answer it."""

    status = 408
    type = "request_timeout"


class TooSlow(RequestTimeout):
    """The client does not read its answer as fast as it is made, and too much of it waits."""

    default_code = "client_too_slow"


class RequestTooLarge(QuireError):
    """The body is larger than the server's limit."""

    status = 413
    type = "request_too_large"


class PermissionDenied(QuireError):
    """The API key is valid, and not for this."""

    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class Overloaded(QuireError):
    """The waiting queue is full, or an API key's limit is reached; try again after `retry_after` seconds."""

    status = 429
    type = "overloaded"

    def __init__(self, message: str, *, retry_after: int = 1, code: str = "queue_full") -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class EngineError(QuireError):
    """The engine failed while working on this request; other requests are not affected."""


class NumericalError(EngineError):
    """The model produced NaN logits for this request."""

    default_code = "numerical_error"


class NoTokenAllowed(EngineError):
    """The request's own constraints together forbid every token at some place of its output."""

    status = 400
    type = "invalid_request_error"
    default_code = "no_token_allowed"


class GrammarFailed(EngineError):
    """The grammar of the request's structured output became too complex to be followed."""

    status = 400
    type = "invalid_request_error"
    default_code = "grammar_failed"


DEADLINE_EXCEEDED = "deadline_exceeded"
"""The code with which the engine ends a request that has run out of time."""


def request_failure(code: str) -> QuireError:
    """The error for a code with which the engine ends a request."""
    if code == DEADLINE_EXCEEDED:
        return RequestTimeout("the request was not done within its timeout", code=code)
    if code == NumericalError.default_code:
        return NumericalError("the model produced no valid numbers for this request")
    if code == NoTokenAllowed.default_code:
        return NoTokenAllowed(
            "no token is left at this place of the output: the structured output, min_tokens, "
            "allowed_token_ids and the other constraints of the request exclude each other"
        )
    if code == GrammarFailed.default_code:
        return GrammarFailed("the grammar of structured_outputs is too complex", param="structured_outputs")
    return EngineError("the engine failed on this request", code=code)


HUNG = "engine_hung"
"""The code of an `EngineDied` whose process took too long and was killed."""


class EngineDied(EngineError):
    """The engine process ended with the request in flight; it is being restarted."""

    default_code = "engine_died"


class RankFailed(EngineError):
    """A rank of tensor parallelism ended, hung or failed in a step: the engine cannot go on."""

    default_code = "rank_failed"


class Draining(QuireError):
    """The server is shutting down and takes no new requests."""

    status = 503
    type = "draining"


class Unavailable(QuireError):
    """The engine is not ready (starting or restarting)."""

    status = 503
    type = "unavailable"


class ModelError(QuireError):
    """A model folder cannot be loaded."""

    status = 400
    type = "invalid_request_error"
    default_code = "model_invalid"


class ModelTooLarge(ModelError):
    """The model and a usable KV cache do not fit the memory that is available."""

    default_code = "model_too_large"


class UntrustedModel(ModelError):
    """Loading would run code or unpickle data from the model folder."""

    default_code = "untrusted_model"
