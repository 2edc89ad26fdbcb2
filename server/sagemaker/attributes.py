"""What SageMaker hands on in headers: which model is meant, and what callers use to find a request again."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request

from ...errors import InvalidRequest

CUSTOM = "x-amzn-sagemaker-custom-attributes"
TARGET = "x-amzn-sagemaker-target-model"
INFERENCE_ID = "x-amzn-sagemaker-inference-id"
MAX_CHARACTERS = 1024
METHODS = ("predict", "classify", "regress")

_KNOWN = {"tfs-model-name": "model", "tfs-model-version": "version", "tfs-method": "method"}


@dataclass(frozen=True, slots=True)
class Attributes:
    """A request's headers.

    Attributes:
        custom: `X-Amzn-SageMaker-Custom-Attributes`, which the answer carries, too; None if there is none.
        model: The model that `tfs-model-name` in it names, or that SageMaker targets.
        version: What `tfs-model-version` in it names.
        method: What `tfs-method` in it names.
        tags: What the request's line in the log carries.
    """

    custom: str | None
    model: str | None
    version: str | None
    method: str
    tags: dict[str, str]

    @classmethod
    def of(cls, request: Request) -> Attributes:
        """Reads the headers.

        The attributes of SageMaker's TensorFlow containers are understood (`tfs-model-name=...`, several of
        them separated by commas); the rest is the caller's own.

        Raises:
            InvalidRequest: An attribute asks for what is not offered, or is too long.
        """
        headers = request.headers
        tags: dict[str, str] = {}
        for name in (CUSTOM, TARGET, INFERENCE_ID):
            value = headers.get(name)
            if value is None:
                continue
            if len(value) > MAX_CHARACTERS or not value.isascii() or not value.isprintable():
                raise InvalidRequest(
                    f"{name} may have {MAX_CHARACTERS} printable ASCII characters", param=name
                )
            tags[name.removeprefix("x-amzn-")] = value
        found: dict[str, str] = {}
        for name, value in re.findall(r"(tfs-[a-z-]+)=([^,;]+)", headers.get(CUSTOM, "")):
            if name not in _KNOWN:
                raise InvalidRequest(
                    f"the attribute {name} is not offered, only {', '.join(_KNOWN)}", param=CUSTOM
                )
            found[_KNOWN[name]] = value.strip()
        method = found.get("method", "predict")
        if method not in METHODS:
            raise InvalidRequest(
                f"tfs-method must be one of {', '.join(METHODS)}, not {method!r}", param=CUSTOM
            )
        model = found.get("model") or headers.get(TARGET)
        return cls(headers.get(CUSTOM), model, found.get("version"), method, tags)
