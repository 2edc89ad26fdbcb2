"""TorchServe's inference API, with the requests of its documentation, against real models."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
import pytest_asyncio

from quire.engine.data_plane import DataPlane

from .classic_models import SPECIES, Trained, rows, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")  # that of the models


@pytest_asyncio.fixture(loop_scope="session")
async def client(plane: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(plane) as served:
        yield served.client


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


async def ask(
    client: httpx.AsyncClient, path: str, content: bytes, media_type: str | None, status: int = 200
) -> object:
    headers = {} if media_type is None else {"content-type": media_type}
    response = await client.post(f"/predictions/{path}", content=content, headers=headers)
    assert response.status_code == status, response.text
    return response.json()


async def refused(
    client: httpx.AsyncClient, path: str, content: bytes, media_type: str | None, status: int = 400
) -> str:
    answer = await ask(client, path, content, media_type, status)
    assert isinstance(answer, dict)
    assert list(answer) == ["code", "type", "message"]
    assert answer["code"] == status
    return answer["message"]


async def test_a_file_is_sent_as_the_documentation_does(client: httpx.AsyncClient) -> None:
    image = bytes(range(256))
    expected = {"classes": ["length", "first"], "scores": [256.0, 0.0]}
    # curl -T kitten.jpg
    response = await client.put("/predictions/image", content=image)
    assert (response.status_code, response.json()) == (200, expected)
    response = await client.post(
        "/predictions/image/1.0", content=image, headers={"content-type": "image/jpeg"}
    )
    assert response.json() == expected
    # curl -F data=@kitten.jpg
    for name in ("data", "body", "image"):
        response = await client.post("/predictions/image", files={name: ("kitten.jpg", image, "image/jpeg")})
        assert response.json() == expected
    files = [("data", ("a.jpg", image, "image/jpeg")), ("data", ("b.jpg", b"b", "image/jpeg"))]
    answers = (await client.post("/predictions/image", files=files)).json()
    assert [one["scores"] for one in answers] == [[256.0, 0.0], [1.0, 98.0]]


async def test_every_kind_of_body_says_the_same(client: httpx.AsyncClient, trained: Trained) -> None:
    examples = rows(3, seed=5)
    expected = trained.trees.predict(examples, num_iteration=5).tolist()
    as_json, csv = examples.tolist(), "\n".join(",".join(map(repr, row)) for row in examples.tolist())
    for content, media_type in (
        (json.dumps(as_json), "application/json"),
        (json.dumps({"input": as_json}), "application/json"),
        (json.dumps({"data": as_json}), "application/json"),
        (json.dumps(as_json), None),
        (json.dumps(as_json), "application/x-www-form-urlencoded"),
        (csv, "text/csv"),
        (csv.replace("\n", "\r\n") + "\r\n", "text/csv; charset=utf-8"),
        (npy(examples), "application/x-npy"),
        (npy(np.asfortranarray(examples)), "application/x-npy"),
        (npy(examples.astype(">f8")), "application/x-npy"),
        (examples.tobytes(), "application/octet-stream"),
    ):
        sent = content if isinstance(content, bytes) else content.encode()
        assert await ask(client, "trees", sent, media_type) == expected, media_type
    answer = await ask(client, "trees", json.dumps({"instances": as_json}).encode(), "application/json")
    assert answer == {"predictions": expected}


async def test_one_example_has_one_answer(client: httpx.AsyncClient, trained: Trained) -> None:
    (example,) = rows(1, seed=6)
    (expected,) = trained.trees.predict(example[None], num_iteration=10)
    for value in (example.tolist(), {"input": example.tolist()}, {"body": example.tolist()}):
        answer = await ask(client, "trees/1", json.dumps(value).encode(), "application/json")
        assert answer == expected
    assert await ask(client, "trees/1.0", npy(example), "application/x-npy") == expected
    response = await client.post(
        "/predictions/trees/1", files={"input": (None, json.dumps(example.tolist()))}
    )
    assert response.json() == expected
    answer = await ask(client, "species", json.dumps(example.tolist()).encode(), "application/json")
    assert isinstance(answer, dict)
    assert answer["predict"] == trained.species.predict(example[None])[0]
    assert answer["predict"] in SPECIES


async def test_forms_of_several_inputs(client: httpx.AsyncClient) -> None:
    row = {"tag": "foo", "signal": [1.5, 2], "sensor": [[1, 2], [3, 4]], "flag": True}
    parts = [(name, (None, value if name == "tag" else json.dumps(value))) for name, value in row.items()]
    expected = row | {"tag_bytes": {"b64": base64.b64encode(b"foo").decode()}}
    assert (await client.post("/predictions/mixed", files=parts)).json() == expected
    assert (await client.post("/predictions/mixed", files=parts * 2)).json() == [expected] * 2
    assert (await client.post("/predictions/mixed", json=row)).json() == expected
    columns = {name: [value] for name, value in row.items()}
    assert (await client.post("/predictions/mixed", json=columns)).json() == [expected]


async def test_texts_in_json(client: httpx.AsyncClient) -> None:
    assert await ask(client, "image", b'"abc"', "application/json") == {
        "classes": ["length", "first"],
        "scores": [3.0, 97.0],
    }
    b64 = json.dumps({"b64": base64.b64encode(b"\xff").decode()}).encode()
    for content in (b64, b'{"image": %b}' % b64, b'{"data": %b}' % b64):
        answer = await ask(client, "image", content, "application/json")
        assert isinstance(answer, dict)
        assert answer["scores"] == [1.0, 255.0]


@pytest.mark.parametrize(
    ("model", "content", "media_type", "named"),
    [
        ("trees", b"[1, 2, 3]", "application/json", "size 3"),
        ("trees", b"[[1, 2, 3, NaN]]", "application/json", "NaN"),
        ("trees", b'{"other": [1, 2, 3, 4]}', "application/json", "lacks"),
        ("trees", b'{"instances": [[1]]}', "application/json", "instances"),
        ("trees", b"\xff\xd8", None, "UTF-8"),
        ("trees", b"\xff\xd8", "image/jpeg", "image/jpeg"),
        ("trees", b"", None, "JSON"),
        ("trees", b"1,2,3", "text/csv", "3 values"),
        ("trees", b"1,2,3,x", "text/csv", "'x'"),
        ("trees", b"1,2,3,1_0", "text/csv", "'1_0'"),
        ("trees", b"1,2,3,1e999", "text/csv", "FP64's range"),
        ("trees", b"1,2,3,inf", "text/csv", "'inf'"),
        ("trees", b'1,2,3,"4', "text/csv", "CSV"),
        ("trees", b"\xff,2,3,4", "text/csv", "CSV"),
        ("trees", b"", "text/csv", "0 rows"),
        ("trees", b"1234567", "application/octet-stream", "7 bytes"),
        ("trees", b"", "application/octet-stream", "0 bytes"),
        ("trees", b"\x93NUMPY", "application/x-npy", "no .npy file"),
        ("trees", npy(np.zeros((1, 4)))[:-1], "application/x-npy", "not its size"),
        ("trees", npy(np.zeros((1, 4), "S3")), "application/x-npy", "|S3"),
        ("trees", npy(np.zeros((1, 4), "c16")), "application/x-npy", "plain type"),
        ("trees", npy(np.zeros((1, 4), "O")), "application/x-npy", "plain type"),
        ("trees", npy(np.zeros((1, 5))), "application/x-npy", "shape [1, 5]"),
        ("trees", npy(np.zeros(1)).replace(b"(1,)", b"(10**9, )"), "application/x-npy", "no .npy file"),
        (
            "trees",
            npy(np.zeros((1, 4))).replace(b"(1, 4), }      ", b"(1000000000,)} "),
            "application/x-npy",
            "not its size",
        ),
        ("mixed", b"x", "text/plain", "send JSON, or a form"),
        ("mixed", b"[1]", "application/json", "object with the inputs"),
        ("mixed", b'{"tag": "a"}', "application/json", "lacks"),
        ("image", b"1", "application/json", "strings"),
        ("image", b"x", "multipart/form-data", "boundary"),
        ("image", b"x", "multipart/form-data; boundary=b", "does not end"),
        ("image", b"--b\r\n\r\nx\r\n--b--", "multipart/form-data; boundary=b", "no name"),
        ("image", b"--b\r\nx\r\n--b--", "multipart/form-data; boundary=b", "headers"),
        (
            "image",
            b'--b\r\nContent-Disposition: form-data; name="q"\r\n\r\nx\r\n--b--',
            "multipart/form-data; boundary=b",
            "'q'",
        ),
        ("image", b"--b" + b"\r\n--b" * 1100 + b"--", "multipart/form-data; boundary=b", "1024 parts"),
        ("image", b"--b--", "multipart/form-data; boundary=b", "lacks"),
    ],
)
async def test_bodies_that_are_not_as_described(
    client: httpx.AsyncClient, model: str, content: bytes, media_type: str | None, named: str
) -> None:
    assert named in await refused(client, model, content, media_type)


async def test_what_is_absent_or_not_offered(client: httpx.AsyncClient) -> None:
    assert "'nothing'" in await refused(client, "nothing", b"1", None, 404)
    assert "language model" in await refused(client, "fake", b"1", None, 404)
    for version in ("3", "1.5", "../1", "x"):
        response = await client.post(f"/predictions/trees/{version}", content=b"1")
        assert response.status_code == 404, version
    response = await client.post("/explanations/trees", content=b"1")
    assert (response.status_code, response.json()["type"]) == (400, "BadRequestException")
    response = await client.post("/predictions/trees?x=1", content=b"1")
    assert (response.status_code, response.json()["type"]) == (400, "BadRequestException")
    response = await client.get("/predictions/trees")
    assert (response.status_code, response.json()["type"]) == (405, "MethodNotAllowedException")


async def test_missing_values(client: httpx.AsyncClient, trained: Trained) -> None:
    expected = trained.trees.predict(np.array([[1, np.nan, 3, np.nan]]), num_iteration=5).tolist()
    assert await ask(client, "trees", b"1,,3,nan", "text/csv") == expected
    assert await ask(client, "trees", b"[[1, null, 3, null]]", "application/json") == expected
