"""text-generation, the client of text-generation-inference."""

from __future__ import annotations

import asyncio

from runner import Servers, main
from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError

PROMPT = "Once upon a time"


def check_generate(servers: Servers) -> None:
    headers = {"Authorization": f"Bearer {servers.key}"}
    client = Client(servers.embedded, headers=headers, timeout=60)
    whole = client.generate(PROMPT, max_new_tokens=12, decoder_input_details=True)
    assert whole.generated_text
    assert whole.details.generated_tokens == len(whole.details.tokens) == 12
    parts = list(client.generate_stream(PROMPT, max_new_tokens=12))
    assert "".join(part.token.text for part in parts) == whole.generated_text
    assert parts[-1].generated_text == whole.generated_text
    stopped = client.generate(PROMPT, max_new_tokens=40, stop_sequences=[" "])
    assert stopped.details.finish_reason.value == "stop_sequence"
    sampled = client.generate(PROMPT, do_sample=True, max_new_tokens=8, seed=3, temperature=0.9, top_k=9)
    again = client.generate(PROMPT, do_sample=True, max_new_tokens=8, seed=3, temperature=0.9, top_k=9)
    assert again.generated_text == sampled.generated_text
    try:
        client.generate(PROMPT, max_new_tokens=10_000)
    except ValidationError:
        pass
    else:
        raise AssertionError("more tokens than the context holds")


def check_asynchronous(servers: Servers) -> None:
    async def both() -> None:
        client = AsyncClient(servers.embedded, headers={"Authorization": f"Bearer {servers.key}"}, timeout=60)
        whole = await client.generate(PROMPT, max_new_tokens=12)
        parts = [part.token.text async for part in client.generate_stream(PROMPT, max_new_tokens=12)]
        assert "".join(parts) == whole.generated_text

    asyncio.run(both())


if __name__ == "__main__":
    main(__name__)
