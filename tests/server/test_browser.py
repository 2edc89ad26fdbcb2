"""The web page in a real browser, if there is one: chat, stop, the cache, the key, both colour schemes.

Set QUIRE_SCREENSHOTS to a folder to keep pictures of what the browser showed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quire.server.keys import ApiKey
from quire.server.settings import ServerSettings

from .conftest import serve_on_port, until
from .fake_engine import FakeEngine

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}


def find_chromium(playwrights_own: str) -> str:
    """The program; skips the test if there is none."""
    for path in (playwrights_own, *map(shutil.which, NAMES)):
        if path is not None and os.path.exists(path):
            return path
    pytest.skip("there is no Chromium on this machine")


@contextlib.asynccontextmanager
async def browser_page(url: str, **options: Any) -> AsyncIterator[Any]:
    """The page in a new tab. What the browser complains of, as breaches of the policy, fails the test."""
    complaints: list[str] = []
    strangers: list[str] = []
    async with playwright.async_playwright() as started:
        path = find_chromium(started.chromium.executable_path)
        browser = await started.chromium.launch(executable_path=path)
        tab = await browser.new_page(**({"viewport": DESKTOP} | options))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        tab.on("request", lambda request: request.url.startswith(url) or strangers.append(request.url))
        await tab.goto(url)
        yield tab
        await browser.close()
    assert strangers == []
    # The browser itself logs answers like 401; those are what the page is for.
    assert [text for text in complaints if "status of 401" not in text and "status of 403" not in text] == []


async def picture(tab: Any, name: str) -> None:
    if folder := os.environ.get("QUIRE_SCREENSHOTS"):
        await tab.screenshot(path=Path(folder) / f"{name}.png")


async def shows(tab: Any, selector: str, text: str) -> None:
    await playwright.expect(tab.locator(selector)).to_contain_text(text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_chat_and_cache(scheme: str) -> None:
    async with (
        serve_on_port() as (served, _),
        browser_page(str(served.client.base_url), color_scheme=scheme) as tab,
    ):
        await shows(tab, "#connection", "connected")
        await shows(tab, "#count-free", "100")
        await tab.click("#settings summary")
        await tab.fill("#max-tokens", "60")
        await tab.fill("#prompt", "<b>no markup</b> and **strong**")
        await tab.keyboard.press("Enter")
        await shows(tab, "#speed", "tokens in")
        assert await tab.locator("#messages .user strong").text_content() == "strong"
        assert await tab.locator("#messages b").count() == 0
        served.engine.block_map.update([(0, b"oosscc")], is_whole=False)
        await shows(tab, "#count-shared", "2")
        await shows(tab, "#count-owned", "2")
        await picture(tab, f"chat-{scheme}")


async def test_stop() -> None:
    async with (
        serve_on_port(FakeEngine(answer_tokens=200)) as (served, _),
        browser_page(str(served.client.base_url)) as tab,
    ):
        served.engine.step_seconds = 0.05
        await tab.fill("#prompt", "hello")
        await tab.click("#send")
        await playwright.expect(tab.locator("#messages .assistant p")).to_be_visible()
        await tab.click("#stop")
        await until(lambda: not served.engine.running, "the request is aborted")
        await shows(tab, "#speed", "stopped")


async def test_the_key_is_asked_for_and_stays_in_the_tab() -> None:
    async with (
        serve_on_port(settings=ServerSettings(api_key="k-1")) as (served, _),
        browser_page(str(served.client.base_url)) as tab,
    ):
        for key, then in (("wrong", "an API key is needed"), ("k-1", "connected")):
            await tab.fill("#key", key)
            await tab.keyboard.press("Enter")
            await shows(tab, "#connection", then)
        assert await tab.evaluate("Object.keys(localStorage).length") == 0
        assert await tab.evaluate("document.cookie") == ""
        await tab.reload()
        await shows(tab, "#connection", "connected")


async def test_a_phone_and_a_hundred_thousand_pages() -> None:
    engine = FakeEngine()
    engine.stats.num_blocks = engine.stats.num_free_blocks = 100_000
    async with (
        serve_on_port(engine) as (served, _),
        browser_page(str(served.client.base_url), viewport=PHONE) as tab,
    ):
        await playwright.expect(tab.locator("#engine")).to_be_hidden()
        await tab.click("#show-engine")
        await shows(tab, "#count-free", "100,000")
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await picture(tab, "phone")


async def test_deployments_are_seen_and_steered_with_the_admin_key() -> None:
    settings = ServerSettings(api_keys=(ApiKey("alice", "k-alice"), ApiKey("admin", "k-admin")))
    async with (
        serve_on_port(settings=settings) as (served, _),
        browser_page(str(served.client.base_url)) as tab,
    ):
        served.context.manager.adopt_engine("next", FakeEngine(name="next"))
        canary = {"type": "canary", "steps": [5, 25, 100]}
        spec = {"name": "chat", "versions": [served.context.model_name, "next"], "strategy": canary}
        made = await served.client.post(
            "/admin/deployments", json=spec, headers={"authorization": "Bearer k-admin"}
        )
        assert made.status_code == 200, made.text
        await tab.fill("#key", "k-alice")
        await tab.keyboard.press("Enter")
        await shows(tab, "#connection", "connected")
        await tab.click("#deployments-panel summary")
        await shows(tab, "#deployments-text", "need the admin key")
        await tab.fill("#admin-key", "k-admin")
        await tab.keyboard.press("Enter")
        await shows(tab, "#deployments article", "running, 5%")
        await shows(tab, "#decisions", "created (admin)")
        tab.on("dialog", lambda dialog: dialog.accept())
        await tab.get_by_role("button", name="promote").click()
        await shows(tab, "#deployments article", "running, 25%")
        await tab.get_by_role("button", name="rollback").click()
        await shows(tab, "#deployments article", "rolled back, 0%")
        await shows(tab, "#decisions", "from the web page")
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await tab.locator("#deployments-panel").scroll_into_view_if_needed()
        await picture(tab, "deployments")
        served.context.deployments.close()
