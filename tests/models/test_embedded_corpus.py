"""The embedded model's corpus, tokenizer and chat template."""

import itertools
import json
import random

import pytest

from quire.models.embedded import PATH
from quire.models.embedded.corpus import Document, documents
from quire.models.embedded.grammar import Turn, expand
from quire.models.embedded.tasks import arithmetic, held_out_sum, in_words

MAX_BYTES = 8_000_000


def test_expand_picks_options_and_fills_slots() -> None:
    rng = random.Random(0)
    texts = {expand("[a [red|blue]|no] {x}", rng, {"x": "[kept]"}) for _ in range(100)}
    assert texts == {"a red [kept]", "a blue [kept]", "no [kept]"}


def test_expand_puts_the_article_right() -> None:
    rng = random.Random(0)
    assert (
        expand("a apple, a unicorn, a owl, A egg, a cat", rng) == "an apple, a unicorn, an owl, An egg, a cat"
    )


def test_corpus_is_reproducible() -> None:
    first = [document.render() for document in itertools.islice(documents(3), 200)]
    second = [document.render() for document in itertools.islice(documents(3), 200)]
    assert first == second
    assert first != [document.render() for document in itertools.islice(documents(4), 200)]


def test_documents_hold_no_template_syntax() -> None:
    for document in itertools.islice(documents(11), 2000):
        text = document.render().replace("[DONE]", "")
        assert not set("[]{}") & set(text), text
        for turn in document.turns:
            assert turn.user.strip()
            assert turn.assistant.strip() == turn.assistant != ""


def test_sums_are_right_and_held_out_ones_do_not_occur() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        turn = arithmetic(rng)
        left, equals, right = turn.assistant.partition(" = ")
        if not equals:
            continue
        a, sign, b = left.split()
        x, y = int(a), int(b)
        results = {"+": x + y, "-": x - y, "x": x * y, "/": x // max(1, y)}
        assert int(right.rstrip(".")) == results[sign]
        assert sign not in "+-" or not held_out_sum(x, y)


def test_numbers_in_words() -> None:
    words = [in_words(n) for n in (0, 13, 20, 42, 99)]
    assert words == ["zero", "thirteen", "twenty", "forty-two", "ninety-nine"]


def test_render_is_what_the_chat_template_writes() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(PATH)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello!"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == Document("Be kind.", [Turn("hi", "Hello!")]).render()
    developer = [{"role": "developer", "content": "Be kind."}, *messages[1:]]
    assert tokenizer.apply_chat_template(developer, tokenize=False) == text
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    opened = tokenizer.apply_chat_template(parts, tokenize=False, add_generation_prompt=True)
    assert opened == "<|bos|><|user|>hi<|end|><|assistant|>"
    with pytest.raises(Exception, match="Unknown role 'tool'"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_tokenizer_encodes_any_text() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(PATH / "tokenizer.json"))
    for text in ("Hello, world!", "naïve Straße 你好 👋🏽 \u0000\t\n", "x = 12345"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_files_are_small_and_complete() -> None:
    assert sum(path.stat().st_size for path in PATH.iterdir()) <= MAX_BYTES
    safetensors = pytest.importorskip("safetensors")
    config = json.loads((PATH / "config.json").read_text(encoding="utf-8"))
    with safetensors.safe_open(str(PATH / "model.safetensors"), framework="np") as file:
        names = set(file.keys())
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    assert len(names) == 2 + 9 * config["num_hidden_layers"]
