"""Settings objects as command-line options: a command takes an `EngineConfig`, its user types flags."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

import typer

from ..engine.config import EngineConfig
from ..engine.sampling_params import SamplingParams
from ..server.reasoning_parsers import REASONING_PARSERS, WITH_TOOLS
from ..server.settings import ServerSettings
from ..server.tool_parsers import TOOL_PARSERS


@dataclass(frozen=True)
class Group:
    """The options that together make one settings object. Types and defaults are the object's own.

    Attributes:
        target: The dataclass. A ValueError that it raises is a usage error.
        panel: The heading of these options in `--help`.
        help: The fields that can be set, with the line that `--help` has for each.
        flags: Flags that are not the field's own name.
        types: Types that are not the field's own.
        defaults: Defaults that are not the field's own.
        argument: The field that is given by position, not by a flag.
        given_only: Whether the command gets a dict of the values that were given, checked, and not
            the object: what was left out is for a model to recommend, once it is loaded.
    """

    target: Any
    panel: str
    help: Mapping[str, str]
    flags: Mapping[str, str] = field(default_factory=dict[str, str])
    types: Mapping[str, Any] = field(default_factory=dict[str, Any])
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    argument: str | None = None
    given_only: bool = False

    def but(self, **defaults: Any) -> Group:
        """The same options with other defaults."""
        return dataclasses.replace(self, defaults={**self.defaults, **defaults})

    def also(self, **more: str) -> Group:
        """These fields with their help besides."""
        return dataclasses.replace(self, help={**self.help, **more})

    def parameters(self) -> list[inspect.Parameter]:
        """The options as keyword-only parameters; one without a default is required."""
        types = {**get_type_hints(self.target), **self.types}
        defaults = {f.name: f.default for f in dataclasses.fields(self.target)} | dict(self.defaults)
        if self.given_only:
            types = {name: kind | None for name, kind in types.items()}
            defaults = dict.fromkeys(defaults)
        return [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if defaults[name] is dataclasses.MISSING else defaults[name],
                annotation=Annotated[types[name], self._declaration(name)],
            )
            for name in self.help
        ]

    def _declaration(self, name: str) -> Any:
        if name == self.argument:
            return typer.Argument(help=self.help[name])
        flags = (self.flags[name],) if name in self.flags else ()
        return typer.Option(*flags, help=self.help[name], rich_help_panel=self.panel)

    def build(self, values: Mapping[str, Any]) -> Any:
        """Makes the settings object, or checks the values that were given."""
        chosen = {name: values[name] for name in self.help}
        if self.given_only:
            chosen = {name: value for name, value in chosen.items() if value is not None}
        try:
            made = self.target(**{**self.defaults, **chosen})
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return chosen if self.given_only else made


def takes(**groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replaces the named parameters of a command by the options of their groups.

    Ctrl-C, unless the command has a meaning for it, ends the command with status 130.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name in groups:
                parameters += groups[parameter.name].parameters()
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(command)
        def expanded(**values: Any) -> None:
            built = {name: group.build(values) for name, group in groups.items()}
            taken = {name for group in groups.values() for name in group.help}
            own = {name: value for name, value in values.items() if name not in taken}
            try:
                command(**own, **built)
            except KeyboardInterrupt:
                raise typer.Exit(130) from None

        expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        vars(expanded)["__signature__"] = inspect.Signature(parameters)
        return expanded

    return decorate


ENGINE = Group(
    EngineConfig,
    "Engine",
    argument="model",
    help={
        "model": "A folder in Hugging Face format, a hub id (owner/name), or 'embedded'.",
        "revision": "Branch, tag or commit of a hub model.",
        "device": "'auto' takes a GPU if there is one.",
        "tensor_parallel_size": "Processes that share the model, each with a GPU or some of the threads.",
        "dtype": "'auto' takes the checkpoint's, except float16 on CPUs, which becomes float32.",
        "kv_cache_dtype": "Of the KV cache; 'auto' is the activations', 'int8' and (GPUs) 'fp8' take half.",
        "load_format": "'dummy' fills the model with seeded random weights, to measure with.",
        "quantization": "Round the matrices of a float checkpoint to integers while they are loaded.",
        "quantization_group_size": "Columns that share a scale: 32 (as int4 has it by default), 64 or 128.",
        "activations": "How integer matrices take their inputs: rounded to 'int8', or exact, as 'float'; "
        "'auto' rounds them on CPUs only.",
        "lm_head": "The output projection's format; 'auto' is int8 where --quantization is given.",
        "weight_cache": "Keep the repacked weights on disk, so that the next start is fast.",
        "max_model_len": "Context length; by default the model's own.",
        "block_size": "Tokens per KV-cache block.",
        "num_blocks": "Blocks in the KV cache; by default as many as the memory gives.",
        "memory_fraction": "Share of the free memory (of a GPU's whole memory) to use.",
        "max_num_seqs": "Requests running at once.",
        "max_num_batched_tokens": "Tokens per step; longer prompts are computed in chunks.",
        "max_num_prefill_tokens": "Tokens of prompts in steps where others decode; few keep streams even.",
        "enable_prefix_caching": "Reuse the cache blocks of equal prompt prefixes.",
        "num_threads": "CPU threads for the model; by default all cores that it may use.",
        "seed": "Seeds the seeds of requests that bring none.",
        "async_scheduling": "Schedule the next step while one runs; by default on a GPU only.",
        "enforce_eager": "Call a step's kernels one by one, not as one recorded pass or graph.",
    },
    flags={
        "async_scheduling": "--async-scheduling/--no-async-scheduling",
        "enforce_eager": "--enforce-eager",
        "enable_prefix_caching": "--prefix-caching/--no-prefix-caching",
        "num_threads": "--threads",
        "quantization_group_size": "--group-size",
        "weight_cache": "--weight-cache/--no-weight-cache",
    },
)

SAMPLING = Group(
    SamplingParams,
    "Sampling; what is left out is as the model's makers recommend",
    help={
        "max_tokens": "Tokens to generate at most.",
        "min_tokens": "Tokens before which the output does not end.",
        "temperature": "0 always takes the most likely token.",
        "top_k": "Sample among the k most likely tokens; 0 for all.",
        "top_p": "Sample among the most likely tokens that together are this probable.",
        "min_p": "Drop tokens less likely than this fraction of the most likely one.",
        "presence_penalty": "Subtracted once from the logit of each generated token.",
        "frequency_penalty": "Subtracted as often as the token was generated.",
        "repetition_penalty": "Divides the logits of tokens in prompt and output.",
        "stop": "A string that ends the output; may be given several times.",
        "ignore_eos": "Go on after the end-of-text token.",
    },
    flags={"ignore_eos": "--ignore-eos"},
    types={"stop": list[str]},
    defaults={"max_tokens": None},
    given_only=True,
)

SERVER = Group(
    ServerSettings,
    "Server",
    help={
        "model_store": "Folder from which models are loaded by name over the admin API.",
        "insecure": "Allow an address that other machines reach without an API key.",
        "drain_timeout": "Seconds that running requests get to finish on SIGTERM.",
        "max_body_bytes": "A larger body is refused with 413.",
        "body_timeout": "Seconds after which an unfinished body is refused with 408.",
        "max_header_bytes": "Larger headers are refused with 431.",
        "max_headers": "More headers are refused with 431.",
        "header_timeout": "Seconds after which unfinished headers are refused with 408.",
        "keep_alive_timeout": "Seconds after which an idle connection is closed.",
        "max_json_depth": "Deeper JSON is refused.",
        "max_json_values": "JSON with more values is refused.",
        "inline_bytes": "A longer body is parsed and tokenised in a thread of its own.",
        "max_prompts": "Prompts in one request.",
        "max_sequences": "Prompts times choices in one request.",
        "keep_alive_interval": "Seconds after which a silent stream carries a comment line.",
        "max_buffered_bytes": "Bodies being read, of all requests together; more are refused with 429.",
        "max_stored_responses": "Responses that are remembered for later turns.",
        "max_stored_bytes": "The memory that they take, about.",
        "request_timeout": "Seconds after which a request is ended with 408; it may ask for less.",
        "send_timeout": "Seconds after which a client that reads nothing is cut off.",
        "tool_call_parser": f"How the model writes calls: auto, none, {', '.join(TOOL_PARSERS)}.",
        "reasoning_parser": "How the model marks reasoning: auto, none, "
        f"{', '.join((*REASONING_PARSERS, *WITH_TOOLS))}.",
        "deployments_file": "Keeps deployments and their audit log over restarts; by default, memory does.",
        "ssl_certfile": "Certificate and its chain (PEM): the server then speaks TLS alone.",
        "ssl_keyfile": "The certificate's key, if it is not in the same file.",
        "trust_request_chat_template": "Let requests bring chat templates of their own.",
    },
    flags={
        "insecure": "--insecure",
        "drain_timeout": "--grace",
        "trust_request_chat_template": "--trust-request-chat-template",
    },
)
