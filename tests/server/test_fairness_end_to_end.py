"""Two API keys share one real engine: what counts is the order of answers, not their time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from .quire_process import QuireProcess, blocks_are_free, metrics, until

NUM_FLOOD = 24


async def test_a_flood_of_one_key_does_not_hold_up_another(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("flood:key-of-the-flood\nlight:key-of-the-light\n")
    server = QuireProcess(tmp_path, "--max-num-seqs", "2", "--api-key-file", str(keys))
    ended: list[str] = []

    async def ask(client: httpx.AsyncClient, name: str, number: int) -> None:
        response = await client.post(
            "/v1/completions",
            json={
                "prompt": f"Story number {number}:",
                "max_tokens": 400 if name == "flood" else 48,  # a flood that lasts
                "temperature": 0,
                "ignore_eos": True,
            },
            headers={"authorization": f"Bearer key-of-the-{name}"},
        )
        assert response.status_code == 200, response.text
        ended.append(name)

    try:
        async with server.client() as client:
            client.headers["authorization"] = "Bearer key-of-the-flood"
            flood = [asyncio.create_task(ask(client, "flood", number)) for number in range(NUM_FLOOD)]

            async def is_flooded() -> bool:
                now = await metrics(client)
                return now["num_requests_waiting"] + now["num_requests_running"] + len(ended) >= NUM_FLOOD

            await until(is_flooded, "all requests of the flood are in the engine")
            num_before = len(ended)
            await ask(client, "light", 0)
            num_overtaking = len(ended) - num_before - 1
            await asyncio.gather(*flood)
            late = {"prompt": "A story", "max_tokens": 400, "ignore_eos": True, "timeout": 0.001}
            refused = await client.post("/v1/completions", json=late)
            assert (refused.status_code, refused.json()["error"]["type"]) == (408, "request_timeout")
            await blocks_are_free(client)
        assert ended.count("flood") == NUM_FLOOD
        assert num_before < NUM_FLOOD // 2, "the flood was over before"
        # One of the two seats is the light key's: beside its answer one or two of the flood's end, and a few
        # before it has come in. In the order of arrival, all would go first.
        assert num_overtaking <= (NUM_FLOOD - num_before) // 2, ended
    finally:
        server.stop()
