"""Rendering conversations with the Jinja template that comes with a model.

Templates are code from strangers: they run in Jinja's immutable sandbox, see only plain JSON values,
and cannot reach files or Python's internals. The helpers below are those that Hugging Face documents
for chat templates: https://huggingface.co/docs/transformers/chat_templating_writing
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ..errors import InvalidRequest, ModelError, UntrustedModel
from .config_reader import Fields
from .tokenizer import read_tokenizer_config, special_tokens

MAX_TEMPLATE_BYTES = 1 << 20

Message = Mapping[str, Any]


class ChatTemplate:
    """A model's chat template, or several by name: "default", and "tool_use" for requests with tools.

    Args:
        sources: Jinja sources by name; empty if the model has none.
        variables: What every rendering sees besides the conversation: `bos_token` and the like.

    Raises:
        ModelError: A template is not valid Jinja.
    """

    def __init__(self, sources: Mapping[str, str], variables: Mapping[str, str]) -> None:
        self.sources = dict(sources)
        self._variables = dict(variables)
        self._templates: dict[str, Template] = {}
        self._names: dict[str, set[str]] = {}
        environment = _environment()
        for name, source in self.sources.items():
            try:
                self._templates[name] = environment.from_string(source)
                self._names[name] = meta.find_undeclared_variables(environment.parse(source))
            except (TemplateSyntaxError, RecursionError) as error:
                raise ModelError(f"The chat template {name!r} is malformed: {error}") from error

    @classmethod
    def from_folder(cls, path: str | Path) -> ChatTemplate:
        """Reads chat_template.jinja, or else the template in tokenizer_config.json; there may be none."""
        folder = Path(path)
        settings = read_tokenizer_config(folder)
        file = folder / "chat_template.jinja"
        if file.exists():
            return cls({"default": _read_source(file)}, special_tokens(settings))
        value: object = settings.values.get("chat_template")
        if value is None:
            return cls({}, special_tokens(settings))
        if isinstance(value, str):
            return cls({"default": value}, special_tokens(settings))
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise settings.error("chat_template", "a string or a list of objects")
        items = cast("list[dict[str, Any]]", value)
        entries = [Fields(item, "tokenizer_config.json: chat_template") for item in items]
        return cls({e.string("name"): e.string("template") for e in entries}, special_tokens(settings))

    def __bool__(self) -> bool:
        """Whether the model has a template at all."""
        return bool(self._templates)

    def variables(self, *, with_tools: bool = False) -> Set[str]:
        """What a rendering, of a conversation with tools or without, looks at besides its own variables."""
        return self._names[self._choose(with_tools=with_tools)]

    def replaced(self, source: str) -> ChatTemplate:
        """Another template with this one's variables. Raises `ModelError` if it is not valid Jinja."""
        if len(source.encode()) > MAX_TEMPLATE_BYTES:
            raise ModelError(f"The chat template is larger than {MAX_TEMPLATE_BYTES} bytes.")
        return ChatTemplate({"default": source}, self._variables)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """Renders a conversation to the text that the model was trained on.

        Args:
            messages: Objects with `role` and `content`, as in OpenAI's API.
            add_generation_prompt: Whether to end with the mark that begins an assistant's turn.
            tools: JSON schemas of functions that the model may call.
            kwargs: Further variables; the template must know them.

        Raises:
            InvalidRequest: The model has no template, the template refuses the conversation or
                fails on it, or a variable is reserved or unknown.
            UntrustedModel: The template tried to leave its sandbox.
        """
        name = self._choose(with_tools=tools is not None)
        given = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._variables,
        }
        for variable in kwargs:
            if variable in given and variable != "documents":
                message = f"the template variable {variable!r} is reserved"
                raise InvalidRequest(message, param="chat_template_kwargs")
            if variable not in self._names[name]:
                message = f"the model's chat template knows no variable {variable!r}"
                raise InvalidRequest(message, param="chat_template_kwargs")
        try:
            return self._templates[name].render(_plain(given | kwargs))
        except SecurityError as error:
            raise UntrustedModel(f"The chat template tried to leave its sandbox: {error}") from error
        except TemplateError as error:
            message = f"the chat template refuses the conversation: {error}"
            raise InvalidRequest(message, param="messages") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            # What a template does with values that it did not expect: 'user' + 1, a missing key.
            message = f"the chat template fails on the conversation: {error}"
            raise InvalidRequest(message, param="messages") from error

    def _choose(self, *, with_tools: bool) -> str:
        if not self._templates:
            raise InvalidRequest(
                "the model has no chat template; use completions, or give the model a chat_template.jinja"
            )
        if with_tools and "tool_use" in self._templates:
            return "tool_use"
        if "default" in self._templates:
            return "default"
        raise InvalidRequest(f"the model has no default chat template, only {', '.join(self._templates)}")


def _read_source(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_TEMPLATE_BYTES:
            raise ModelError(f"{file} is larger than {MAX_TEMPLATE_BYTES} bytes.")
        return file.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error


def _plain(value: object) -> Any:
    """A copy made of plain JSON types alone: methods of anything else could do what no sandbox foresees."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item) for item in cast("Sequence[Any]", value)]
    raise InvalidRequest(f"a {type(value).__name__} is no JSON value and cannot enter a chat template")


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks what to train on; here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Jinja's `namespace`, which takes no names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *values = args
        attributes: dict[str, Any] = dict(*values, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a namespace takes no attribute {name!r}")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which refuses an unsafe attribute when it is looked up, not when it is used."""

    def unsafe_undefined(self, obj: object, attribute: str) -> NoReturn:
        raise SecurityError(f"{attribute!r} of a {type(obj).__name__} is out of bounds")


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    helpers: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": _Namespace,
    }
    environment.globals.update(helpers)
    environment.filters["tojson"] = _tojson
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    # Local time, as in transformers: templates tell the model what day it is for the user.
    return datetime.now().astimezone().strftime(format)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained on it; Jinja's own filter escapes HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
