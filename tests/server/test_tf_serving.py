"""TensorFlow Serving's REST API, with the requests of its documentation, against real models."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
import pytest_asyncio

from quire.engine.data_plane import DataPlane

from .classic_models import Trained, rows, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")  # that of the models


@pytest_asyncio.fixture(loop_scope="session")
async def client(plane: DataPlane) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(plane) as served:
        yield served.client


async def ask(client: httpx.AsyncClient, path: str, status: int = 200, **body: object) -> dict:
    """As curl -d does: the body is JSON, and its media type says something else."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = await client.post(f"/v1/models/{path}", content=json.dumps(body), headers=headers)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


async def refused(client: httpx.AsyncClient, path: str, status: int = 400, **body: object) -> str:
    answer = await ask(client, path, status, **body)
    assert list(answer) == ["error"]
    return answer["error"]


async def test_rows_and_columns_are_answered_in_kind(client: httpx.AsyncClient, trained: Trained) -> None:
    examples = rows(3, seed=1)
    expected = trained.trees.predict(examples, num_iteration=5).tolist()
    assert await ask(client, "trees:predict", instances=examples.tolist()) == {"predictions": expected}
    assert await ask(client, "trees:predict", inputs=examples.tolist()) == {"outputs": expected}
    named = [{"input": row} for row in examples.tolist()]
    assert await ask(client, "trees:predict", instances=named) == {"predictions": expected}
    named = {"input": examples.tolist()}
    assert await ask(client, "trees:predict", inputs=named, signature_name="serving_default") == {
        "outputs": expected
    }


async def test_versions_and_labels(client: httpx.AsyncClient, trained: Trained) -> None:
    examples = rows(2, seed=2)
    whole, half = (trained.trees.predict(examples, num_iteration=count).tolist() for count in (10, 5))
    assert whole != half
    for place, expected in (
        ("", half),
        ("/versions/1", whole),
        ("/versions/2", half),
        ("/labels/stable", whole),
        ("/labels/canary", half),
    ):
        answer = await ask(client, f"trees{place}:predict", instances=examples.tolist())
        assert answer == {"predictions": expected}, place


async def test_the_documentations_example_of_several_inputs(client: httpx.AsyncClient) -> None:
    first = {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]], "flag": True}
    second = {"tag": "bär", "signal": [3, 4, 1, 2, 5.5], "sensor": [[4, 5], [6, -8]], "flag": False}
    answer = await ask(client, "mixed:predict", instances=[first, second])
    # An output whose name ends so is binary.
    encoded = [{"b64": base64.b64encode(text.encode()).decode()} for text in ("foo", "bär")]
    expected = [first | {"tag_bytes": encoded[0]}, second | {"tag_bytes": encoded[1]}]
    assert answer == {"predictions": expected}
    columns = {name: [first[name], second[name]] for name in first}
    assert await ask(client, "mixed:predict", inputs=columns) == {"outputs": columns | {"tag_bytes": encoded}}


async def test_bytes_come_and_go_as_base64(client: httpx.AsyncClient) -> None:
    image = bytes(range(200, 256))
    b64 = {"b64": base64.b64encode(image).decode()}
    for instances in ([b64, "a"], [{"image": b64}, {"image": "a"}]):
        answer = await ask(client, "image:predict", instances=instances)
        assert [row["scores"] for row in answer["predictions"]] == [[56, 200], [1, 97]]
    row = {"tag": b64, "signal": [], "sensor": [[0, 0], [0, 0]], "flag": True}
    (prediction,) = (await ask(client, "mixed:predict", instances=[row]))["predictions"]
    assert prediction["tag"] == prediction["tag_bytes"] == b64  # not UTF-8
    assert prediction["signal"] == []


async def test_numbers_that_json_has_not(client: httpx.AsyncClient) -> None:
    row = {"tag": "", "signal": [None, 1.5], "sensor": [[0, 0], [0, 0]], "flag": True}
    response = await client.post("/v1/models/mixed:predict", json={"instances": [row]})
    assert '"signal":[NaN,1.5]' in response.text


async def test_classify(client: httpx.AsyncClient, trained: Trained) -> None:
    examples = rows(3, seed=3)
    answer = await ask(client, "species:classify", examples=[{"input": row} for row in examples.tolist()])
    scores = trained.species.predict_proba(examples)
    assert [[label for label, _ in pairs] for pairs in answer["results"]] == [[""] * 3] * 3
    np.testing.assert_allclose([[score for _, score in pairs] for pairs in answer["results"]], scores)
    answer = await ask(
        client, "image:classify", signature_name="tensorflow/serving/classify", examples=[{"image": "abc"}]
    )
    assert answer == {"results": [[["length", 3.0], ["first", 97.0]]]}


async def test_regress_with_a_context(client: httpx.AsyncClient, trained: Trained) -> None:
    examples = rows(2, seed=4)
    expected = trained.trees.predict(examples, num_iteration=5).tolist()
    answer = await ask(client, "trees:regress", examples=[{"input": row} for row in examples.tolist()])
    assert answer == {"results": expected}
    answer = await ask(client, "trees:regress", examples=[{}, {}], context={"input": examples[0].tolist()})
    assert answer == {"results": [expected[0]] * 2}
    assert "context" in await refused(
        client, "trees:regress", examples=[{"input": [1, 2, 3, 4]}], context={"input": [1]}
    )


async def test_status_and_metadata(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/v1/models/trees")).json()
    assert [one["version"] for one in answer["model_version_status"]] == ["2", "1"]
    assert {one["state"] for one in answer["model_version_status"]} == {"AVAILABLE"}
    assert (answer["id"], answer["object"]) == ("trees", "model")
    language = (await client.get("/v1/models/fake")).json()
    assert (language["max_model_len"], language["model_version_status"][0]["state"]) == (512, "AVAILABLE")
    assert set((await client.get("/v1/models/gone")).json()) == {"error"}
    for place in ("versions/1", "labels/stable"):
        response = await client.get(f"/v1/models/trees/{place}")
        assert response.json() == {
            "model_version_status": [
                {
                    "version": "1",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }
    metadata = (await client.get("/v1/models/mixed/metadata")).json()
    assert metadata["model_spec"] == {"name": "mixed", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["sensor"] == {
        "dtype": "DT_INT8",
        "tensor_shape": {
            "dim": [{"size": size, "name": ""} for size in ("-1", "2", "2")],
            "unknown_rank": False,
        },
        "name": "sensor",
    }
    labelled = (await client.get("/v1/models/trees/labels/canary/metadata")).json()
    assert labelled["model_spec"]["version"] == "2"


async def test_what_is_absent(client: httpx.AsyncClient) -> None:
    for path, named in (
        ("nothing:predict", "nothing"),
        ("fake:predict", "language model"),
        ("trees/versions/3:predict", "'3'"),
        ("trees/labels/gone:predict", "gone"),
    ):
        assert named in await refused(client, path, 404, instances=[[1, 2, 3, 4]])
    for path in ("nothing/metadata", "trees/versions/3", "trees/labels/gone", "nothing/versions/1"):
        response = await client.get(f"/v1/models/{path}")
        assert (response.status_code, list(response.json())) == (404, ["error"]), path
    assert "0x1" in await refused(client, "trees/versions/0x1:predict", instances=[])
    assert "explanations" in await refused(client, "trees:explain", instances=[])


@pytest.mark.parametrize(
    ("model", "body", "named"),
    [
        ("trees", {}, "instances"),
        ("trees", {"instances": [], "inputs": []}, "either"),
        ("trees", {"instances": [], "output_filter": []}, "output_filter"),
        ("trees", {"instances": [], "signature_name": "other"}, "other"),
        ("trees", {"instances": {}}, "list of examples"),
        ("trees", {"instances": []}, "0 rows"),
        ("trees", {"instances": [1, 2, 3, 4]}, "nested 2 deep, not 1"),
        ("trees", {"instances": [[[1, 2, 3, 4]]]}, "size 1, not 4"),
        ("trees", {"instances": [[[1], [2], [3], [4]]]}, "hold more"),
        ("trees", {"instances": [[1, 2, 3, 4], [1, 2, 3]]}, "from 3 to 4"),
        ("trees", {"instances": [[1, 2, 3]]}, "size 3, not 4"),
        ("trees", {"instances": [[1, 2, 3, "4"]]}, "'4'"),
        ("trees", {"instances": [[1, 2, 3, True]]}, "true"),
        ("trees", {"instances": [[1, 2, 3, {"b64": "AA=="}]]}, "hold more"),
        ("trees", {"instances": [[1, 2, 3, 10**39 * 10**300]]}, "digits"),
        ("trees", {"instances": [{"input": [1, 2, 3, 4]}, [1, 2, 3, 4]]}, "instances[1]"),
        ("trees", {"instances": [{"inputs": [1, 2, 3, 4]}]}, "['input']"),
        ("trees", {"instances": [{"input": [1, 2, 3, 4], "more": 1}]}, "more"),
        ("trees", {"instances": [[0.5] * 4] * 65}, "65 rows"),
        ("trees", {"inputs": {"input": [[1, 2, 3, 4]], "other": 1}}, "other"),
        ("trees", {"inputs": 5}, "nested 2 deep, not 0"),
        ("mixed", {"inputs": [1]}, "object with the inputs"),
        ("mixed", {"instances": [[1]]}, "object with the inputs"),
        ("image", {"instances": [{"b64": "%%"}]}, "base64"),
        ("image", {"instances": [{"b64": "AA==", "more": 1}]}, "image"),
        ("image", {"instances": [5]}, "5"),
        ("image", {"instances": [None]}, "null"),
    ],
)
async def test_tensors_that_are_not_as_described(
    client: httpx.AsyncClient, model: str, body: dict[str, object], named: str
) -> None:
    assert named in await refused(client, f"{model}:predict", **body)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("sensor", [[1, 2], [3, 128]], "INT8's range"),
        ("sensor", [[1, 2], [3, 4.0]], "4.0"),
        ("sensor", [[1, 2], [3, True]], "true"),
        ("sensor", [[1, 2], [3, None]], "null"),
        ("signal", [1e39], "FP32's range"),
        ("signal", [10**39], "FP32's range"),
        ("flag", 1, "true or false"),
        ("tag", 1, "strings"),
        ("tag", ["a"], "tag"),
    ],
)
async def test_values_that_are_out_of_range(
    client: httpx.AsyncClient, name: str, value: object, named: str
) -> None:
    row = {"tag": "", "signal": [1], "sensor": [[0, 0], [0, 0]], "flag": True}
    assert named in await refused(client, "mixed:predict", instances=[row | {name: value}])


async def test_examples_that_cannot_be(client: httpx.AsyncClient) -> None:
    for path, body, named in (
        ("trees:classify", {"examples": [{"input": [1, 2, 3, 4]}]}, "cannot classify"),
        ("image:regress", {"examples": [{"image": "a"}]}, "cannot regress"),
        ("trees:regress", {"examples": [{"input": [1, 2, 3]}]}, "3 values"),
        ("trees:regress", {"examples": [{"input": [[1, 2, 3, 4]]}]}, "nested 1 deep"),
        ("trees:regress", {"examples": [{"x": 1}]}, "['input']"),
        ("trees:regress", {"examples": [[1, 2, 3, 4]]}, "examples[0]"),
        ("trees:regress", {"examples": []}, "0 rows"),
        ("trees:regress", {"instances": [[1, 2, 3, 4]]}, "instances"),
        ("trees:regress", {"examples": [], "signature_name": "tensorflow/serving/classify"}, "classify"),
        (
            "mixed:regress",
            {"examples": [{"tag": "", "signal": [1] * n, "sensor": [0] * 4, "flag": True} for n in (1, 2)]},
            "several sizes",
        ),
    ):
        assert named.lower() in (await refused(client, path, **body)).lower(), (path, body)


async def test_pages_of_other_sites_are_refused(client: httpx.AsyncClient) -> None:
    for headers in ({"origin": "http://elsewhere"}, {"sec-fetch-site": "cross-site"}):
        response = await client.post(
            "/v1/models/trees:predict", content=b'{"instances": [[1, 2, 3, 4]]}', headers=headers
        )
        assert response.status_code == 403, response.text
    headers = {"origin": "http://quire", "sec-fetch-site": "same-origin"}
    response = await client.post(
        "/v1/models/trees:predict", content=b'{"instances": [[1, 2, 3, 4]]}', headers=headers
    )
    assert response.status_code == 200, response.text
