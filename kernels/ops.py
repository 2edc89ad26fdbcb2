"""Every op that models call, and the one table that says who implements it where.

An op is called as a function, `ops.rms_norm(x, weight, eps)`. Its signature and meaning are those
of the function of the same name in `reference`. Each call goes to the first cell of the op's row
whose column is the device of the first argument and whose predicate accepts the arguments, else
to the reference.

The environment variable `QUIRE_KERNELS` forces a column, for all ops or one at a time:
`QUIRE_KERNELS=reference` or `QUIRE_KERNELS=linear=cpp,rms_norm=reference`. A forced column that
cannot run raises; an automatic fall-back to the reference is logged once with its reason.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import torch

from ..errors import QuireError
from . import reference
from .triton.support import MAX_GROUP

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Predicate = Callable[..., "str | None"]
"""Takes the op's arguments; returns None to accept them, or the reason why not."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One implementation of one op.

    Attributes:
        device: torch device type that it runs on.
        column: Its name in the table and in `QUIRE_KERNELS`: cpp, triton, xformers.
        module: The module under `quire.kernels` that holds a function with the op's name. The first part of
            its path may define `unavailable() -> str | None`, the reason why nothing in it can run here.
        accepts: An additional condition on the arguments, or None.
    """

    device: str
    column: str
    module: str
    accepts: Predicate | None = None


class KernelUnavailable(QuireError):
    """A kernel column was forced that cannot run here."""


class Op(Generic[P, R]):
    """One op: calls are sent to the implementation chosen for the arguments' device and kind."""

    def __init__(self, function: Callable[P, R], kind: Callable[P, Hashable] | None = None) -> None:
        """`kind` gives what else of the arguments decides whether a cell's predicate accepts them."""
        self.reference = function
        self.kind = kind
        self.name = function.__name__
        self.__doc__ = function.__doc__
        self._chosen: dict[Hashable, Callable[P, R]] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        second: Any = args[1] if len(args) > 1 else None
        third: Any = args[2] if len(args) > 2 else None
        dtype = third if isinstance(third, torch.dtype) else None  # of an embedding
        kind = self.kind(*args, **kwargs) if self.kind is not None else None
        key = (first.device.type, first.dtype, first.shape[-1], getattr(second, "format", None), dtype, kind)
        chosen = self._chosen.get(key)
        if chosen is None:
            chosen = self._chosen[key] = self._choose(first.device.type, args, kwargs)
        return chosen(*args, **kwargs)

    def implementation(self, *args: P.args, **kwargs: P.kwargs) -> Callable[P, R]:
        """The function that a call with arguments like these runs; only their kind is looked at."""
        first: Any = args[0]
        return self._choose(first.device.type, args, kwargs)

    def _choose(self, device: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[P, R]:
        forced = _forced_column(self.name)
        if forced == "reference":
            return self.reference
        reasons: list[str] = []
        for cell in TABLE[self.name]:
            if cell.device != device or (forced and cell.column != forced):
                continue
            function, reason = load_cell(cell, self.name)
            if function is not None and cell.accepts is not None:
                reason = cell.accepts(*args, **kwargs)
            if function is not None and reason is None:
                return function
            reasons.append(f"{cell.column}: {reason}")
        if forced:
            detail = "; ".join(reasons) or f"no such column on {device}"
            raise KernelUnavailable(f"QUIRE_KERNELS forces {self.name}={forced}, but {detail}")
        _log_fall_back(self.name, reasons)
        return self.reference

    def forget(self) -> None:
        """Drops the choices made so far, after `QUIRE_KERNELS` has changed."""
        self._chosen.clear()


_logged: set[str] = set()


def _log_fall_back(op: str, reasons: list[str]) -> None:
    """Says once for each reason, not for each op that it touches, why the reference runs."""
    for reason in reasons:
        if reason not in _logged:
            _logged.add(reason)
            logger.warning(
                "%s runs on the slow reference kernel, as do all ops with this reason: %s", op, reason
            )


def _forced_column(op: str) -> str | None:
    """The column that `QUIRE_KERNELS` forces for an op, or None."""
    forced: str | None = None
    for item in filter(None, os.environ.get("QUIRE_KERNELS", "").split(",")):
        name, equals, column = item.strip().partition("=")
        if not equals:
            forced = name
        elif name not in TABLE:
            raise KernelUnavailable(f"QUIRE_KERNELS names {name!r}; the ops are {', '.join(TABLE)}")
        elif name == op:
            return column
    return forced


def load_cell(cell: Cell, op: str) -> tuple[Callable[..., Any] | None, str | None]:
    """Imports a cell's function; returns it, or None and the reason why it cannot run here."""
    try:
        package = importlib.import_module(f".{cell.module.partition('.')[0]}", __package__)
        reason = package.unavailable() if hasattr(package, "unavailable") else None
        if reason:
            return None, reason
        module = importlib.import_module(f".{cell.module}", __package__)
    except ImportError as error:
        return None, str(error)
    return getattr(module, op), None


def repacker(function: Callable[..., Any], format: str) -> Callable[..., Any] | None:
    """The function that brings a weight into the form that an implementation of an op reads.

    The module of an implementation of `linear` or `embedding` may say in `PACKED_FORMATS` which formats it
    repacks, and define `prepare(weight, *, release)`, which does it.

    Returns:
        That function, or None if the implementation reads weights of this format as they are.
    """
    module = sys.modules[function.__module__]
    return module.prepare if format in getattr(module, "PACKED_FORMATS", ()) else None


def resolved_table(device: str) -> dict[str, str]:
    """For `quire doctor`: for each op, the columns in the order they are tried on a device."""
    rows: dict[str, str] = {}
    for name, cells in TABLE.items():
        forced = _forced_column(name)
        usable = [c.column for c in cells if c.device == device and load_cell(c, name)[0] is not None]
        usable.append("reference")
        if forced is None:
            rows[name] = " · ".join(usable)
        else:
            rows[name] = (
                f"{forced} (forced)" if forced in usable else f"{forced} (forced, but cannot run here)"
            )
    return rows


def reset() -> None:
    """Makes every op choose again; tests call it after changing `QUIRE_KERNELS`."""
    for op in OPS:
        op.forget()


def _attention_kind(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    meta: Any,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
) -> Hashable:
    return q.shape[1], kv_cache.dtype, kv_cache.shape[2], window > 0, softcap > 0, sinks is not None


rms_norm = Op(reference.rms_norm)
add_rms_norm = Op(reference.add_rms_norm)
layer_norm = Op(reference.layer_norm)
add_layer_norm = Op(reference.add_layer_norm)
rope = Op(reference.rope)
rope_and_cache_write = Op(reference.rope_and_cache_write)
paged_attention = Op(reference.paged_attention, _attention_kind)
packed_attention = Op(reference.packed_attention)
linear = Op(reference.linear)
quantize_weight = Op(reference.quantize_weight)
embedding = Op(reference.embedding)
silu_and_mul = Op(reference.silu_and_mul)
gelu_and_mul = Op(reference.gelu_and_mul)
gelu = Op(reference.gelu)
moe = Op(reference.moe)
argmax = Op(reference.argmax)
sample = Op(reference.sample)

OPS: tuple[Op[..., Any], ...] = (
    rms_norm,
    add_rms_norm,
    layer_norm,
    add_layer_norm,
    rope,
    rope_and_cache_write,
    paged_attention,
    packed_attention,
    linear,
    quantize_weight,
    embedding,
    silu_and_mul,
    gelu_and_mul,
    gelu,
    moe,
    argmax,
    sample,
)


def _float_dtype(x: torch.Tensor, *_args: Any, **_kwargs: Any) -> str | None:
    return None if x.dtype in (torch.float32, torch.bfloat16) else f"no {x.dtype} kernel"


def _packable_weight(x: torch.Tensor, weight: Any, *_args: Any, **_kwargs: Any) -> str | None:
    return "no float16 kernel" if weight.format == "float16" else _float_dtype(x)


def _embeds(_ids: torch.Tensor, weight: Any, dtype: torch.dtype) -> str | None:
    if weight.format == "float16" or dtype not in (torch.float32, torch.bfloat16):
        return f"no {weight.format} embedding in {dtype}"
    return None


def _float32_rows(x: torch.Tensor) -> str | None:
    return None if x.dtype == torch.float32 and x.dim() == 2 else f"no kernel for {x.dim()}-d {x.dtype}"


def _unpacked(_ids: torch.Tensor, weight: Any, _dtype: torch.dtype) -> str | None:
    if weight.data.numel() or hasattr(weight.packed, "rows_as"):
        return None
    return "only another kernel's packed form of the matrix is there"


def _experts(
    x: torch.Tensor, router_logits: torch.Tensor, gate_up: torch.Tensor, *_: Any, **__: Any
) -> str | None:
    if x.dtype != gate_up.dtype:
        return f"no kernel for {x.dtype} with experts of {gate_up.dtype}"
    return None if router_logits.shape[1] <= 1024 else "no kernel for more than 1024 experts"


TRITON_GROUP = 32
"""Columns that Triton's linear kernels multiply at once, which must share a scale."""


def _gpu_linear(x: torch.Tensor, weight: Any, *_args: Any, **_kwargs: Any) -> str | None:
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"no {x.dtype} kernel"
    if weight.group_size < weight.in_features and weight.group_size % TRITON_GROUP:
        return f"groups of {weight.group_size} columns, which are no multiple of {TRITON_GROUP}"
    return None


CPP = Cell("cpu", "cpp", "cpu", _float_dtype)


def _pages(q: torch.Tensor, kv_cache: torch.Tensor, *_args: Any, **_kwargs: Any) -> str | None:
    group = q.shape[1] // kv_cache.shape[2]
    if kv_cache.dtype == torch.int8 and q.shape[2] % 4:
        return f"no kernel for int8 heads of {q.shape[2]} channels"
    return f"no kernel for {group} heads for each KV head" if group > MAX_GROUP else None


def _xformers(*args: Any, **kwargs: Any) -> str | None:
    from .xformers_attention import accepts

    return accepts(*args, **kwargs)


def _triton(module: str, accepts: Predicate | None = None) -> Cell:
    return Cell("cuda", "triton", f"triton.{module}", accepts)


# op: the implementations in the order they are tried; the reference follows every row.
TABLE: dict[str, tuple[Cell, ...]] = {
    "rms_norm": (CPP, _triton("rms_norm")),
    "add_rms_norm": (CPP, _triton("rms_norm")),
    "layer_norm": (CPP,),
    "add_layer_norm": (CPP,),
    "rope": (),
    "rope_and_cache_write": (CPP, _triton("rope_and_cache_write")),
    "paged_attention": (
        CPP,
        _triton("paged_attention", _pages),
        Cell("cuda", "xformers", "xformers_attention", _xformers),
    ),
    "packed_attention": (CPP,),
    "linear": (Cell("cpu", "cpp", "cpu", _packable_weight), _triton("linear", _gpu_linear)),
    "quantize_weight": (CPP,),
    "embedding": (Cell("cpu", "cpp", "cpu", _embeds), _triton("embedding", _unpacked)),
    "silu_and_mul": (CPP, _triton("gates")),
    "gelu_and_mul": (CPP, _triton("gates")),
    "gelu": (CPP,),
    "moe": (_triton("moe", _experts),),
    "argmax": (Cell("cpu", "cpp", "cpu", _float32_rows), _triton("argmax", _float32_rows)),
    "sample": (_triton("sampling"),),
}
