"""The cache of packed weights: what comes back is what was kept, and nothing about a disk stops a start."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from quant_models import logits_of
from quant_writers import Recipe, quantize_folder
from quire.kernels import cpu
from quire.models import loader, weight_cache
from quire.models.causal_lm import CausalLM
from quire.models.config import ModelConfig
from quire.models.loader import load_model
from quire.models.quant.options import WeightOptions
from quire.models.weight_cache import CacheEntry, WeightCache, cache_bound, cache_folder

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="only C++ kernels repack weights")

WEIGHTS = "model.safetensors"
IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(autouse=True)
def small_models_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_cache, "MIN_BYTES", 0)


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


@pytest.fixture
def folder(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model("Qwen2ForCausalLM"), tmp_path / "model"))


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """Makes storing happen at once, and lists what was stored."""
    stored: list[Path | None] = []

    def store(self: CacheEntry, model: CausalLM) -> None:
        stored.append(self.write(model))

    monkeypatch.setattr(CacheEntry, "store", store)
    return stored


def load(
    folder: Path, cache: WeightCache | None, dtype: torch.dtype = torch.float32, **options: Any
) -> CausalLM:
    config = ModelConfig.from_folder(folder)
    return load_model(
        folder, config, device="cpu", dtype=dtype, options=WeightOptions(**options), cache=cache
    )


def entries(cache: WeightCache) -> list[Path]:
    return sorted(cache.entries.glob("*"))


def is_mapped(model: CausalLM, path: Path) -> bool:
    """Whether the matrices lie in a file that this process has mapped."""
    address = model.lm_head.weight.packed.data.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            return str(path) in line
    return False


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.bfloat16, {}),
        (torch.bfloat16, {"quantization": "int4"}),
        (torch.float32, {"quantization": "int8", "group_size": 32, "lm_head": "float"}),
        (torch.bfloat16, {"quantization": "int4", "activations": "float", "lm_head": "int4"}),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_the_second_start_gives_the_same_bits(
    dtype: torch.dtype,
    options: dict[str, Any],
    tied: bool,
    tiny_model: Callable[..., Path],
    cache: WeightCache,
    stores: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tiny_model("Qwen2ForCausalLM", tie_word_embeddings=tied)
    first = load(folder, cache, dtype, **options)
    monkeypatch.setattr(loader, "stored_tensors", None)  # the checkpoint is not even opened
    second = load(folder, cache, dtype, **options)
    assert len(stores) == 1
    assert is_mapped(second, stores[0])
    assert first.num_mapped_bytes == 0 < second.num_mapped_bytes <= stores[0].stat().st_size
    assert torch.equal(logits_of(first, IDS), logits_of(second, IDS))
    assert (second.lm_head.weight is second.model.embed_tokens.weight) is tied
    assert dict(second.vectors()).keys() == dict(first.vectors()).keys()


def test_activation_order_comes_back(
    tiny_model: Callable[..., Path], tmp_path: Path, cache: WeightCache, stores: list[Path]
) -> None:
    quantize_folder(tiny_model("Qwen2ForCausalLM"), tmp_path / "model", Recipe("gptq", act_order=True))
    first, second = (load(tmp_path / "model", cache) for _ in range(2))
    assert len(stores) == 1
    assert second.model.layers[0].self_attn.qkv_proj.weight.packed.order is not None  # type: ignore[attr-defined]
    assert torch.equal(logits_of(first, IDS), logits_of(second, IDS))


def test_heads_that_differ_come_back_untied(
    tiny_model: Callable[..., Path], tmp_path: Path, cache: WeightCache, stores: list[Path]
) -> None:
    folder = Path(shutil.copytree(tiny_model(tie_word_embeddings=True), tmp_path / "model"))
    tensors = load_file(folder / WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, folder / WEIGHTS)
    first, second = (load(folder, cache) for _ in range(2))
    assert len(stores) == 1
    assert torch.equal(logits_of(first, IDS), logits_of(second, IDS))


def test_every_tensor_begins_at_a_cache_line(folder: Path, cache: WeightCache, stores: list[Path]) -> None:
    load(folder, cache, quantization="int4")
    with safe_open(stores[0], framework="pt") as handle:
        offsets = [handle.get_tensor(name).data_ptr() % 64 for name in handle.keys()]  # noqa: SIM118
    assert len(offsets) > 10
    assert not any(offset for offset in offsets if offset)


def test_a_form_of_its_own_for_each_option_and_content(
    folder: Path, cache: WeightCache, stores: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    forms: list[dict[str, Any]] = [
        {},
        {"quantization": "int4"},
        {"quantization": "int4", "group_size": 64},
        {"quantization": "int8"},
        {"lm_head": "int8"},
    ]
    for options in forms:
        load(folder, cache, **options)
    load(folder, cache, torch.bfloat16)
    assert len(set(stores)) == len(forms) + 1
    load(folder, cache, quantization="int4", activations="float")
    assert len(stores) == len(forms) + 1, "how inputs are taken is no matter of storage"
    monkeypatch.setattr(weight_cache, "PACKED_LAYOUT", 1 << 20)
    load(folder, cache)
    assert len(set(stores)) == len(forms) + 2
    monkeypatch.undo()


def test_a_changed_checkpoint_is_read_again(folder: Path, cache: WeightCache, stores: list[Path]) -> None:
    before = logits_of(load(folder, cache), IDS)
    tensors = load_file(folder / WEIGHTS)
    tensors["lm_head.weight"] *= 2
    save_file(tensors, folder / WEIGHTS)
    after = logits_of(load(folder, cache), IDS)
    torch.testing.assert_close(after, 2 * before)
    assert len(set(stores)) == 2


def test_a_copy_of_the_checkpoint_meets_the_same_entry(
    folder: Path, tmp_path: Path, cache: WeightCache, stores: list[Path]
) -> None:
    load(folder, cache)
    load(Path(shutil.copytree(folder, tmp_path / "copy")), cache)
    assert len(stores) == 1


def test_contents_are_hashed_once(
    folder: Path, cache: WeightCache, stores: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    hash_content = weight_cache.hash_content

    def counting(file: Path, size: int) -> str:
        hashed.append(file)
        return hash_content(file, size)

    monkeypatch.setattr(weight_cache, "hash_content", counting)
    for _ in range(3):
        load(folder, cache)
    assert len(hashed) == len(stores) == 1
    os.utime(folder / WEIGHTS, (1, 1))  # touched, not changed
    load(folder, cache)
    assert (len(hashed), len(stores)) == (2, 1)


def test_the_hash_is_over_all_of_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_cache, "HASHED_BYTES", 1000)
    file = tmp_path / "file"
    seen: set[str] = set()
    for size in (0, 1, 999, 1000, 1001, 3500):
        content = random.Random(1).randbytes(size)
        file.write_bytes(content)
        seen.add(weight_cache.hash_content(file, size))
        for place in {0, size // 2, size - 1} if size else set():
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            seen.add(weight_cache.hash_content(file, size))
    assert len(seen) == 1 + 2 + 4 * 4


def damage_header(data: bytearray) -> bytearray:
    data[20] ^= 0xFF
    return data


def damage_values(data: bytearray) -> bytearray:
    data[len(data) * 2 // 3] ^= 1
    return data


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:5],
        lambda data: data[:0],
        lambda data: data + b"0",
        damage_header,
        damage_values,
    ],
)
def test_a_damaged_entry_is_made_anew(
    damage: Callable[[bytearray], bytearray],
    folder: Path,
    cache: WeightCache,
    stores: list[Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = logits_of(load(folder, cache, quantization="int4"), IDS)
    stores[0].write_bytes(damage(bytearray(stores[0].read_bytes())))
    assert torch.equal(logits_of(load(folder, cache, quantization="int4"), IDS), expected)
    assert "is damaged and made anew" in caplog.text
    assert len(stores) == 2
    caplog.clear()
    assert torch.equal(logits_of(load(folder, cache, quantization="int4"), IDS), expected)
    assert len(stores) == 2
    assert "damaged" not in caplog.text


def test_a_damaged_memo_is_made_anew(folder: Path, cache: WeightCache, stores: list[Path]) -> None:
    load(folder, cache)
    (memo,) = (cache.folder / "hashes").iterdir()
    for content in (b"", b"[]", b"{}", b'{"state": 1}', b"\xff"):
        memo.write_bytes(content)
        load(folder, cache)
    assert len(stores) == 1


def test_the_least_recently_used_entries_go(folder: Path, tmp_path: Path, stores: list[Path]) -> None:
    forms: list[dict[str, Any]] = [{}, {"quantization": "int4"}, {"quantization": "int8"}]
    sizes: list[int] = []
    for options in forms:
        load(folder, WeightCache(tmp_path / "measured"), **options)
        sizes.append(stores[-1].stat().st_size)
    stores.clear()
    cache = WeightCache(tmp_path / "cache", sizes[0] + sizes[2] + 100)
    load(folder, cache, **forms[1])
    load(folder, cache, **forms[0])
    for age, path in enumerate(reversed(stores)):
        os.utime(path, (time.time() - 1000 * (age + 1),) * 2)
    load(folder, cache, **forms[1])  # now the first is the one that was not used for longest
    load(folder, cache, **forms[2])
    assert entries(cache) == sorted([stores[0], stores[2]])


def test_what_was_just_written_stays_and_what_cannot_fit_is_not_written(
    folder: Path, tmp_path: Path, stores: list[Path | None]
) -> None:
    cache = WeightCache(tmp_path / "cache", 1000)
    load(folder, cache)
    assert stores == [None]
    assert entries(cache) == []
    cache = WeightCache(tmp_path / "cache", 1 << 20)
    load(folder, cache)
    assert entries(cache) == [stores[1]]


def test_what_ended_processes_left_is_removed(folder: Path, cache: WeightCache, stores: list[Path]) -> None:
    cache.entries.mkdir(parents=True)
    old, new = cache.entries / "a.1.2.tmp", cache.entries / "b.1.2.tmp"
    for path in (old, new):
        path.write_bytes(b"unfinished")
    os.utime(old, (1, 1))
    load(folder, cache)
    assert entries(cache) == sorted([new, stores[0]])


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_said_once(
    error: int,
    folder: Path,
    cache: WeightCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_args: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(weight_cache, "write_packed", refuse)
    monkeypatch.setattr(weight_cache, "_logged", set[str]())
    waiting = []
    store = CacheEntry.store

    def watched(self: CacheEntry, model: CausalLM) -> Any:
        waiting.append(store(self, model))

    monkeypatch.setattr(CacheEntry, "store", watched)
    for _ in range(2):
        assert logits_of(load(folder, cache), IDS).isfinite().all()
        waiting.pop().join()
    assert caplog.text.count("not kept for the next start") == 1
    assert os.strerror(error) in caplog.text
    assert entries(cache) == []


def test_a_folder_that_cannot_be_made(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_cache, "_logged", set[str]())
    (tmp_path / "file").write_text("not a folder")
    entry = WeightCache(tmp_path / "file" / "cache").entry(
        [folder / WEIGHTS], ModelConfig.from_folder(folder), torch.float32, WeightOptions()
    )
    assert entry.find() is None
    thread = entry.store(load(folder, None))
    assert thread is not None
    thread.join()
    assert "not kept for the next start" in caplog.text


def test_a_checkpoint_that_changes_meanwhile_is_not_kept(
    folder: Path, cache: WeightCache, caplog: pytest.LogCaptureFixture
) -> None:
    entry = cache.entry([folder / WEIGHTS], ModelConfig.from_folder(folder), torch.float32, WeightOptions())
    model = load(folder, None)
    os.utime(folder / WEIGHTS, (1, 1))
    assert entry.write(model) is None
    assert "changed while it was loaded" in caplog.text


def test_reference_kernels_keep_nothing(folder: Path, cache: WeightCache, stores: list[Path]) -> None:
    load(folder, cache, torch.float16)
    assert stores == []


def test_small_models_are_not_kept(
    folder: Path, cache: WeightCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weight_cache, "MIN_BYTES", 1 << 20)
    entry = cache.entry([folder / WEIGHTS], ModelConfig.from_folder(folder), torch.float32, WeightOptions())
    assert entry.store(load(folder, None)) is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"QUIRE_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/quire"),
        ({}, str(Path.home() / ".cache" / "quire")),
    ],
)
def test_where_it_is(environment: dict[str, str], expected: str) -> None:
    assert cache_folder(environment) == Path(expected)


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder({}) is None


def test_how_large_it_may_be() -> None:
    assert cache_bound({}) is None
    assert cache_bound({"QUIRE_CACHE_SIZE": "1.5"}) == 3 << 29
    assert cache_bound({"QUIRE_CACHE_SIZE": "0"}) == 0
    for wrong in ("-1", "many", "nan", "inf"):
        with pytest.raises(ValueError, match=f"QUIRE_CACHE_SIZE .*{wrong}"):
            cache_bound({"QUIRE_CACHE_SIZE": wrong})


TWO_PROCESSES = """
import sys, torch
from pathlib import Path
from quire.models import weight_cache
from quire.models.config import ModelConfig
from quire.models.loader import load_model
from quire.models.quant.options import WeightOptions
weight_cache.MIN_BYTES = 0
folder, cache = Path(sys.argv[1]), weight_cache.WeightCache(Path(sys.argv[2]))
config = ModelConfig.from_folder(folder)
model = load_model(folder, config, device="cpu", dtype=torch.float32, cache=cache)
entry = cache.entry([folder / "model.safetensors"], config, torch.float32, WeightOptions())
for _ in range(20):
    path = entry.write(model)
    assert entry.load(path, model, WeightOptions())
"""


def test_processes_that_write_at_once(folder: Path, cache: WeightCache) -> None:
    command = [sys.executable, "-c", TWO_PROCESSES, str(folder), str(cache.folder)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    (only,) = entries(cache)
    assert only.suffix == ".safetensors"
    (memo,) = (cache.folder / "hashes").iterdir()
    assert json.loads(memo.read_text())["sha256"]
