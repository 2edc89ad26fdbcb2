"""The web page without a browser: what it is allowed to load, and whether its parts fit together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from quire.server.page import FOLDER, read_files
from quire.server.settings import ServerSettings

from .conftest import Served, serve_in_process

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PAGE = (FOLDER / "index.html").read_text(encoding="utf-8")
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.js"))}
STYLE = (FOLDER / "style.css").read_text(encoding="utf-8")
IDS = set(re.findall(r'\bid="([^"]+)"', PAGE))
JS_TESTS = Path(__file__).parent / "page_tests.mjs"


async def test_a_browser_gets_the_page_and_others_a_word(served: Served) -> None:
    page = await served.client.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text == PAGE
    for headers in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        other = await served.client.get("/", headers=headers)
        assert other.text == "Ollama is running"
        assert other.headers["vary"] == "accept"


async def test_the_policy_allows_nothing_but_the_servers_own_files(served: Served) -> None:
    for path in ("/", *(f"/ui/{name}" for name in read_files())):
        response = await served.client.get(path, headers=BROWSER)
        assert response.status_code == 200, path
        policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert response.headers["x-content-type-options"] == "nosniff"
        again = await served.client.get(path, headers=BROWSER | {"if-none-match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await served.client.head(path, headers=BROWSER)).status_code == 200


async def test_only_the_page_is_open_without_the_key() -> None:
    async with serve_in_process(settings=ServerSettings(api_key="k-1")) as served:
        for path in ("/", "/ui/app.js", "/ui/style.css"):
            assert (await served.client.get(path, headers=BROWSER)).status_code == 200
        assert (await served.client.get("/")).status_code == 401
        assert (await served.client.post("/ui/app.js", headers=BROWSER)).status_code == 401
        for path in ("/engine/live", "/metrics", "/v1/models", "/ui", "/uix"):
            assert (await served.client.get(path, headers=BROWSER)).status_code == 401, path


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpage.py", "%2e%2e/page.py", "../page.py", ""])
async def test_no_other_file_can_be_had(served: Served, name: str) -> None:
    assert (await served.client.get(f"/ui/{name}", headers=BROWSER)).status_code == 404


def test_nothing_is_loaded_from_elsewhere() -> None:
    svg = "http://www.w3.org/2000/svg"  # a name, which nobody loads
    for path in FOLDER.iterdir():
        if path.suffix in (".html", ".js", ".css", ".svg"):
            text = path.read_text(encoding="utf-8").replace(svg, "")
            assert not re.findall(r"https?:|//[a-z]+\.|@import|url\(", text), path.name


def test_the_page_has_no_inline_script_or_style_and_makes_no_markup() -> None:
    assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", PAGE)
    for name, text in SCRIPTS.items():
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text
        ), name


def test_every_file_that_is_named_exists() -> None:
    for name in re.findall(r'(?:src|href)="/ui/([^"]+)"', PAGE):
        assert (FOLDER / name).is_file(), name
    for text in SCRIPTS.values():
        for name in re.findall(r'from "\./([^"]+)"', text):
            assert name in SCRIPTS


def test_every_element_that_is_used_exists_once() -> None:
    assert len(IDS) == len(re.findall(r'\bid="', PAGE))
    used = {
        name for text in SCRIPTS.values() for name in re.findall(r'\b(?:element|text)\("([a-z0-9-]+)"', text)
    }
    made = {f"{kind}-{rank}" for kind in ("first", "next") for rank in ("p50", "p90", "p99")}
    made |= {f"count-{name}" for name in ("free", "cached", "owned", "shared")} | {"show-chat", "show-engine"}
    assert len(used) > 15
    assert used | made <= IDS, sorted((used | made) - IDS)
    assert set(re.findall(r'(?:for|href)="#?([a-z-]+)"', PAGE)) <= IDS
    assert set(re.findall(r"^ *#([a-z-]+)", STYLE, re.MULTILINE)) <= IDS


def test_every_colour_exists_in_light_and_dark() -> None:
    used = set(re.findall(r"var\((--[a-z-]+)\)", STYLE)) | {"--free", "--cached", "--owned", "--shared"}
    for scheme in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL):
        assert used <= set(re.findall(r"(--[a-z-]+):", scheme))


def test_every_field_has_a_label() -> None:
    labelled = set(re.findall(r'<label[^>]*\bfor="([^"]+)"', PAGE))
    for label in re.findall(r"<label.*?</label>", PAGE, re.DOTALL):
        labelled.update(re.findall(r'<(?:input|select|textarea)[^>]*\bid="([^"]+)"', label))
    assert set(re.findall(r'<(?:input|select|textarea)[^>]*\bid="([^"]+)"', PAGE)) <= labelled


def test_the_scripts_do_what_they_say() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on this machine to run the page's scripts")
    done = subprocess.run([node, "--test", str(JS_TESTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
