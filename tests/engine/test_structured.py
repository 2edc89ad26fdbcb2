"""Structured outputs: whatever the model would rather say, what ends by itself satisfies its constraint."""

from __future__ import annotations

import json
import random
import re
import threading
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from quire import LLM, SamplingParams, StructuredOutputsParams
from quire.engine.outputs import CompletionOutput
from quire.engine.structured import GrammarCompiler
from quire.engine.token_masks import forbid
from quire.errors import InvalidRequest, NoTokenAllowed
from random_schemas import random_schema

PROMPT = "Tell me about a person."
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age_in_years": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "maxItems": 2, "items": {"enum": ["new", "old"]}},
    },
    "required": ["name", "age_in_years", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("embedded", num_threads=1, num_blocks=1024, seed=0)


def ask(llm: LLM, params: dict[str, Any], **constraint: Any) -> list[CompletionOutput]:
    made = SamplingParams(
        **{"max_tokens": 400, **params}, structured_outputs=StructuredOutputsParams(**constraint)
    )
    return llm.generate(PROMPT, made, use_tqdm=False)[0].outputs


def check_schemas(llm: LLM, seeds: range) -> None:
    schemas = {seed: random_schema(random.Random(seed)) for seed in seeds}
    jobs = [(seed, temperature) for seed in seeds for temperature in (0.0, 1.0, 2.0)]
    params = [
        SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=700,
            structured_outputs=StructuredOutputsParams(json=schemas[seed]),
        )
        for seed, temperature in jobs
    ]
    outputs = llm.generate([PROMPT] * len(jobs), params, use_tqdm=False)
    for (seed, temperature), output in zip(jobs, outputs, strict=True):
        choice = output.outputs[0]
        shown = f"seed {seed}, temperature {temperature}: {choice.text!r} for {schemas[seed]}"
        assert choice.finish_reason == "stop", shown
        jsonschema.validate(json.loads(choice.text), schemas[seed])


def test_random_schemas_are_always_satisfied(llm: LLM) -> None:
    start = random.randrange(1 << 30)
    print(f"seeds from {start}")
    check_schemas(llm, range(start, start + 40))


@pytest.mark.nightly
def test_500_random_schemas_are_always_satisfied(llm: LLM) -> None:
    for start in range(0, 500, 50):
        print(f"seeds from {start}")
        check_schemas(llm, range(start, start + 50))


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(
    "pattern", [r"\d{3}-\d{4}", r"(yes|no)( yes){2,4}", r"[a-z]{3,9}@[a-z]+\.com?", "é{2}/x"]
)
def test_regex(llm: LLM, pattern: str, temperature: float) -> None:
    for choice in ask(llm, {"temperature": temperature, "seed": 1, "n": 4}, regex=pattern):
        assert choice.finish_reason == "length" or re.fullmatch(pattern, choice.text), choice.text


def test_choices_with_awkward_characters(llm: LLM) -> None:
    texts = ['a"b', "a\\b", "é\n", "yes", "yes, of course", "/x/"]
    seen = {choice.text for choice in ask(llm, {"temperature": 2.0, "seed": 2, "n": 40}, choice=texts)}
    assert seen <= set(texts)
    assert len(seen) > 1
    for text in texts:
        assert ask(llm, {}, choice=[text])[0].text == text


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "<" item ("," item)* ">"\nitem ::= [0-9] | "(" item ")"',
        'start: "<" item ("," item)* ">"\nitem: /[0-9]/ | "(" item ")"',
    ],
)
def test_grammars(llm: LLM, grammar: str) -> None:
    for choice in ask(llm, {"temperature": 1.5, "seed": 3, "n": 8}, grammar=grammar):
        text = re.sub(r"\(+\d\)+", "1", choice.text)
        assert choice.text.count("(") == choice.text.count(")") or choice.finish_reason == "length"
        assert choice.finish_reason == "length" or re.fullmatch(r"<\d(,\d)*>", text), choice.text


def test_json_object_and_structural_tag(llm: LLM) -> None:
    for choice in ask(llm, {"temperature": 1.0, "seed": 4, "n": 4}, json_object=True):
        assert choice.finish_reason == "length" or isinstance(json.loads(choice.text), dict)
    tag = {
        "type": "structural_tag",
        "structures": [{"begin": "a", "schema": {"type": "boolean"}, "end": "</a>"}],
        "triggers": ["a"],
    }
    for choice in ask(llm, {"temperature": 1.0, "seed": 5, "n": 4}, structural_tag=tag):
        text = re.sub(r"a(true|false)</a>", "", choice.text)
        assert choice.finish_reason == "length" or "a" not in text, choice.text


def test_logprobs_turn_the_jump_off_and_nothing_else(llm: LLM) -> None:
    for seed in range(5):
        params = {"temperature": 1.0, "seed": seed}
        (jumped,) = ask(llm, params, json=SCHEMA)
        steps = llm.get_metrics().num_steps
        (stepped,) = ask(llm, params | {"logprobs": 1}, json=SCHEMA)
        num_steps = llm.get_metrics().num_steps - steps
        assert stepped.token_ids == jumped.token_ids
        assert len(stepped.logprobs or []) == len(stepped.token_ids)
        steps = llm.get_metrics().num_steps
        ask(llm, params, json=SCHEMA)
        assert llm.get_metrics().num_steps - steps < num_steps - 5


def test_streaming_equals_the_whole(llm: LLM) -> None:
    params = SamplingParams(
        temperature=1.0, seed=7, max_tokens=300, n=3, structured_outputs=StructuredOutputsParams(json=SCHEMA)
    )
    whole = llm.generate(PROMPT, params, use_tqdm=False)[0].outputs
    texts = ["", "", ""]
    for delta in llm.stream(PROMPT, params):
        for choice in delta.outputs:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)


def test_preempted_outputs_are_the_same(llm: LLM) -> None:
    params = [
        SamplingParams(
            temperature=1.0,
            seed=seed,
            max_tokens=200,
            structured_outputs=StructuredOutputsParams(json=SCHEMA),
        )
        for seed in range(8)
    ]
    expected = llm.generate([PROMPT] * 8, params, use_tqdm=False)
    small = LLM("embedded", num_threads=1, num_blocks=64, block_size=4, max_model_len=256, seed=0)
    got = small.generate([PROMPT] * 8, params, use_tqdm=False)
    assert small.get_metrics().num_preemptions > 0
    assert [o.outputs[0].token_ids for o in got] == [o.outputs[0].token_ids for o in expected]


def test_max_tokens_cuts_at_every_length(llm: LLM) -> None:
    (whole,) = ask(llm, {"temperature": 0.0}, json=SCHEMA)
    for length in range(1, len(whole.token_ids)):
        (cut,) = ask(llm, {"temperature": 0.0, "max_tokens": length}, json=SCHEMA)
        assert (cut.finish_reason, cut.token_ids) == ("length", whole.token_ids[:length])


def test_other_constraints_combine_with_masks(llm: LLM) -> None:
    digits = [llm.tokenizer.encode(str(digit), add_special_tokens=False)[-1] for digit in range(10)]
    eos = llm.model_config.eos_token_ids[0]
    (choice,) = ask(llm, {"allowed_token_ids": [*digits, eos]}, regex="[a-z0-9]{3}")
    assert re.fullmatch("[0-9]{3}", choice.text)
    (choice,) = ask(llm, {"min_tokens": 6, "temperature": 0.0}, regex="[a-z]{1,40}")
    assert len(choice.token_ids) > 6
    (choice,) = ask(llm, {"temperature": 0.0, "logit_bias": {digits[7]: 100.0}}, regex="[0-9]{2}")
    assert choice.text == "77"


@pytest.mark.parametrize("other", [{"allowed_token_ids": [300]}, {"min_tokens": 50}])
def test_when_nothing_is_left_that_request_alone_fails(llm: LLM, other: dict[str, Any]) -> None:
    constraint = StructuredOutputsParams(choice=["yes"])
    bad = SamplingParams(max_tokens=60, structured_outputs=constraint, **other)
    good = SamplingParams(max_tokens=60, structured_outputs=constraint)
    failed, fine = llm.generate([PROMPT, PROMPT], [bad, good], use_tqdm=False)
    assert failed.outputs[0].finish_reason == "error"
    assert (fine.outputs[0].text, fine.outputs[0].finish_reason) == ("yes", "stop")
    with pytest.raises(NoTokenAllowed, match="no token is left"):
        list(llm.stream(PROMPT, bad))
    assert llm.get_metrics().num_free_blocks == llm.get_metrics().num_blocks


@pytest.mark.parametrize(
    ("constraint", "match"),
    [
        ({}, "exactly one"),
        ({"regex": "a", "json_object": True}, "regex and json_object"),
        ({"regex": ""}, "empty"),
        ({"regex": "foo**"}, "quantifier"),
        ({"regex": "a{1,100000}"}, "100000"),
        ({"choice": "abc"}, "list of texts"),
        ({"choice": ["a", 1]}, "text"),
        ({"json": "{"}, "not JSON"),
        ({"json": "[" * 100_000}, "deeper"),
        ({"json": {"enum": list(range(100_000))}}, "values"),
        ({"json": {"a": float("nan")}}, "JSON"),
        ({"structural_tag": "[]"}, "object"),
    ],
)
def test_malformed_constraints(constraint: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidRequest, match=match) as caught:
        StructuredOutputsParams(**constraint)
    assert caught.value.param == "structured_outputs"
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "constraint",
    [
        {"regex": "(a"},
        {"regex": "(?=a)b"},
        {"grammar": 'start: "a" missing'},
        {"grammar": "root ::= missing"},
        {"grammar": 'start[temperature=0.5]: "a"'},
        {"json": {"type": "nothing"}},
        {"json": {"$ref": "https://example.com/schema.json"}},
        {"json": {"not": {"type": "string"}}},
        {"json": {"x-guidance": {}}},
        {"structural_tag": {"structures": [{"begin": "a", "schema": {}, "end": ""}], "triggers": ["b"]}},
    ],
)
def test_what_does_not_compile_is_refused(llm: LLM, constraint: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(llm, {}, **constraint)
    assert caught.value.param == "structured_outputs"


def test_others_run_while_a_grammar_is_compiled(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()
    compile_ = GrammarCompiler._compile

    def slow(self: GrammarCompiler, params: StructuredOutputsParams) -> Any:
        going.wait()
        return compile_(self, params)

    monkeypatch.setattr(GrammarCompiler, "_compile", slow)
    monkeypatch.setattr(GrammarCompiler, "compile", lambda *_: None)
    params = SamplingParams(
        max_tokens=20, structured_outputs=StructuredOutputsParams(choice=["slow", "slower"])
    )
    waiting = llm.stream(PROMPT, params)
    held = llm._add(llm.tokenizer.encode(PROMPT), params, None, 0)
    assert not llm.engine.has_work
    assert llm.generate(PROMPT, SamplingParams(max_tokens=5), use_tqdm=False)[0].finished
    assert llm.get_metrics().num_waiting == 1
    llm._abort(held)
    assert llm.get_metrics().num_waiting == 0
    going.set()
    assert "".join(delta.outputs[0].text for delta in waiting) in ("slow", "slower")


def test_masks_forbid_what_has_no_bit_and_keep_the_rest() -> None:
    rng = np.random.default_rng(0)
    allowed = rng.random((3, 71)) < 0.5
    words = np.packbits(np.pad(allowed, ((0, 0), (0, 25))), axis=1, bitorder="little").view(np.uint32)
    logits = torch.randn(5, 71)
    expected = logits.clone()
    expected[[0, 2, 3]] = expected[[0, 2, 3]].masked_fill(torch.from_numpy(~allowed), float("-inf"))
    forbid(logits, words, [0, 2, 3])
    assert torch.equal(logits, expected)
