"""Universal Binary JSON: documents whose lengths hold, and those whose do not."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from quire.models.classic.ubjson import MAX_DEPTH, check_lengths

KEY = b"i\x01a"


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b"[]",
        b"Z",
        b"[#i\x00",
        b"{" + KEY + b"S" + KEY + KEY + b"[ZTFi\x01U\xffI\0\1l\0\0\0\1d\0\0\0\0CxH" + KEY + b"]}",
        b"[$d#i\x02" + bytes(8),
        b"[$L#U\xff" + bytes(8 * 255),
        b"{#i\x02" + KEY + b"{}" + KEY + b"[#i\x01i\x07",
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    ],
)
def test_sound_documents_pass(document: bytes) -> None:
    check_lengths(document)
    for end in range(len(document)):
        with pytest.raises(ValueError, match="it "):
            check_lengths(document[:end])
    with pytest.raises(ValueError, match="goes on"):
        check_lengths(document + b"Z")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b"[$d#L" + struct.pack(">q", 1 << 60), "claims 4611686018427387904 bytes where 0 are left"),
        (b"[#L" + struct.pack(">q", 1 << 60), "cut short"),
        (b"SL" + struct.pack(">q", -1), "length -1"),
        (b"Sl" + struct.pack(">i", 100) + b"abc", "claims 100 bytes where 3"),
        (b"[$Z#l" + struct.pack(">i", 1 << 30), "type 'Z'"),  # elements of no bytes, in any number
        (b"[$[#i\x01", r"type '\['"),
        (b"[$d]", "no length"),
        (b"[#S", "'S' where a length"),
        (b"x", "'x' where a value"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "deep"),
    ],
)
def test_claims_are_refused(document: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_lengths(document)


def test_what_xgboost_writes_passes(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    import numpy as np

    rows = np.random.default_rng(0).normal(size=(200, 3))
    rows[:, 2] = np.floor(abs(rows[:, 2]) * 3)
    for number, parameters in enumerate(
        (
            {},
            {"booster": "dart", "objective": "multi:softprob", "num_class": 2},
            {"booster": "gblinear"},
            {"tree_method": "hist"},
        )
    ):
        data = xgboost.DMatrix(
            rows,
            rows[:, 0] > 0,
            feature_names=["a", "b", "ç"],
            feature_types=["q", "q", "c"] if "tree_method" in parameters else None,
            enable_categorical=True,
        )
        booster = xgboost.train(parameters, data, 3)
        booster.set_attr(note="x")
        booster.save_model(tmp_path / f"{number}.ubj")
        check_lengths((tmp_path / f"{number}.ubj").read_bytes())
