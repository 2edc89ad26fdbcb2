"""The checkpoints that the peers load: one set of random weights, in each format that somebody reads.

`peers.py` calls this; a folder that is complete is not written again. All formats come from one bf16
checkpoint in Hugging Face format. The INT8 and INT4 files are quantised by rounding to nearest, which is
enough here: what is measured is how fast the weights are read, not what they say.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shapes import SHAPES, write_config

GROUP = 128
DONE = "complete"
# fp16 is how optimum stores what is not compressed; the plugin computes it in bf16 where the CPU can.
OPENVINO = {
    "openvino-bf16": ["--weight-format", "fp16"],
    "openvino-int8": ["--weight-format", "int8"],
    "openvino-int4": ["--weight-format", "int4"],
    "openvino-int4-sym": ["--weight-format", "int4", "--sym", "--group-size", "128", "--ratio", "1.0"],
}
ADAPTERS = Path(__file__).parent / "peer_adapters"


def once(folder: Path, write: Callable[[Path], None]) -> Path:
    """The folder, written first unless it is there whole; a half-written one is thrown away."""
    if not (folder / DONE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder)
        (folder / DONE).touch()
    return folder


def write_bf16(folder: Path, shape: str) -> None:
    """The random model itself, in bf16, with a tokenizer, which some exporters insist on."""
    from throughput import make_checkpoint

    make_checkpoint(folder, shape, "bfloat16")
    # transformers fills in fields; what quire's own benchmarks use is written over them.
    write_config(folder, shape, "bfloat16")
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE without merges: 256 bytes and one special token. Nothing is measured with it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0, **{letter: index + 1 for index, letter in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    wrapped.save_pretrained(folder)


def write_w8a8(folder: Path, base: Path) -> None:
    """compressed-tensors W8A8: INT8 weights with one scale per channel, activations quantised per token.

    The embedding, which is also the output matrix, stays bf16, as llm-compressor leaves it.
    """
    import torch

    tensors: dict[str, Any] = {}
    for name, tensor, linear in _weights(base):
        if not linear:
            tensors[name] = tensor
            continue
        weight = tensor.float()
        scale = weight.abs().amax(1, keepdim=True) / 127
        tensors[name] = (weight / scale).round().clamp(-127, 127).to(torch.int8)
        tensors[name + "_scale"] = scale.to(torch.bfloat16)
    common = {"num_bits": 8, "type": "int", "symmetric": True, "observer": "minmax"}
    group = {
        "targets": ["Linear"],
        "weights": {**common, "strategy": "channel", "dynamic": False},
        "input_activations": {**common, "strategy": "token", "dynamic": True, "observer": None},
        "output_activations": None,
    }
    _save(folder, base, tensors, _compressed_tensors("int-quantized", group))


def write_gptq(folder: Path, base: Path) -> None:
    """GPTQ's INT4 with groups of 128, symmetric, without reordering; the output matrix stays bf16."""
    import torch

    tensors: dict[str, Any] = {}
    for name, tensor, linear in _weights(base):
        if not linear:
            tensors[name] = tensor
            continue
        stem, (rows, columns) = name.removesuffix("weight"), tensor.shape
        values, scale = _int4(tensor)
        tensors[stem + "qweight"] = _pack(values.T)
        # The format stores zero points less one: 8 is written as 7.
        zeros = torch.full((columns // GROUP, rows), 7, dtype=torch.int32)
        tensors[stem + "qzeros"] = _pack(zeros.T).T.contiguous()
        tensors[stem + "scales"] = scale.T.to(torch.bfloat16).contiguous()
        tensors[stem + "g_idx"] = torch.arange(columns, dtype=torch.int32) // GROUP
    quantization = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP,
        "desc_act": False,
        "sym": True,
        "lm_head": False,
        "checkpoint_format": "gptq",
    }
    _save(folder, base, tensors, quantization)


def write_w4a16(folder: Path, base: Path) -> None:
    """compressed-tensors' INT4 with groups of 128, symmetric; the output matrix stays bf16.

    The same numbers as GPTQ's, in another layout, the only one that zentorch's kernels take.
    """
    import torch

    tensors: dict[str, Any] = {}
    for name, tensor, linear in _weights(base):
        if not linear:
            tensors[name] = tensor
            continue
        values, scale = _int4(tensor)
        tensors[name + "_packed"] = _pack(values.T).T.contiguous()
        tensors[name + "_scale"] = scale.to(torch.bfloat16)
        tensors[name + "_shape"] = torch.tensor(tensor.shape)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    group = {
        "targets": ["Linear"],
        "weights": {**weights, "dynamic": False, "observer": "minmax"},
        "input_activations": None,
        "output_activations": None,
    }
    _save(folder, base, tensors, _compressed_tensors("pack-quantized", group))


def _compressed_tensors(packing: str, group: dict[str, Any]) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": packing,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def _int4(tensor: Any) -> tuple[Any, Any]:
    """Values from 0 to 15, where 8 is zero, in the matrix's shape, and the scales `[rows, groups]`."""
    import torch

    rows, columns = tensor.shape
    groups = tensor.float().view(rows, columns // GROUP, GROUP)
    scale = groups.abs().amax(2) / 7
    values = (groups / scale[:, :, None]).round().clamp(-8, 7).to(torch.int32) + 8
    return values.view(rows, columns), scale


def _pack(values: Any) -> Any:
    """Eight 4-bit values of a column in one int32, the first in the lowest bits: `[8 n, m]` to `[n, m]`."""
    import torch

    packed = torch.zeros(values.shape[0] // 8, values.shape[1], dtype=torch.int32)
    for index in range(8):
        packed |= values[index::8] << (4 * index)
    return packed


def _weights(base: Path) -> Iterator[tuple[str, Any, bool]]:
    """Name and tensor of each weight of a checkpoint, and whether it is a decoder layer's matrix."""
    from safetensors import safe_open

    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safetensors' handle is no dictionary
                yield name, tensors.get_tensor(name), name.endswith("_proj.weight")


def _save(folder: Path, base: Path, tensors: dict[str, Any], quantization: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def write_gguf(folder: Path, base: Path, llama_cpp: Path, weights: str) -> None:
    """llama.cpp's own conversion to bf16, and from there its own llama-quantize."""
    full = folder / "bf16.gguf"
    (source,) = llama_cpp.glob("llama_cpp_python-*/vendor/llama.cpp")
    convert = [sys.executable, str(ADAPTERS / "convert_gguf.py"), str(source), str(base), str(full)]
    run_logged(convert, folder / "convert.log")
    full.rename(folder / "model.gguf")
    if weights != "BF16":
        (folder / "model.gguf").rename(full)
        quantize = [str(llama_cpp / "build/bin/llama-quantize"), str(full), str(folder / "model.gguf")]
        run_logged([*quantize, weights], folder / "quantize.log")
        full.unlink()


def write_openvino(folder: Path, base: Path, venv: Path, options: list[str]) -> None:
    """optimum's export, which compresses the weights with NNCF."""
    export = [str(venv / "bin/optimum-cli"), "export", "openvino", "--task", "text-generation-with-past"]
    run_logged([*export, "-m", str(base), *options, str(folder)], folder / "export.log")


class Maker:
    """Makes checkpoints of one shape, each once.

    Args:
        work: They lie in a folder of the shape's name in here.
        shape: One of `shapes.SHAPES`.
        peers: Where llama.cpp and optimum are installed, which convert for themselves.
    """

    def __init__(self, work: Path, shape: str, peers: Path) -> None:
        self._folder = work / shape
        self._shape = shape
        self._peers = peers

    def make(self, name: str) -> Path:
        """The folder of a checkpoint: bf16, w8a8, w4a16, gptq, gguf-TYPE or one of OPENVINO."""
        base = once(self._folder / "bf16", lambda folder: write_bf16(folder, self._shape))
        folder = self._folder / name
        if name == "w8a8":
            return once(folder, lambda path: write_w8a8(path, base))
        if name == "w4a16":
            return once(folder, lambda path: write_w4a16(path, base))
        if name == "gptq":
            return once(folder, lambda path: write_gptq(path, base))
        if name in OPENVINO:
            venv = self._peers / "openvino"
            return once(folder, lambda path: write_openvino(path, base, venv, OPENVINO[name]))
        if name.startswith("gguf-"):
            source, weights = self._peers / "llama.cpp", name.removeprefix("gguf-")
            return once(folder, lambda path: write_gguf(path, base, source, weights))
        assert name == "bf16", name
        return base


def run_logged(command: list[str], log: Path) -> None:
    """Runs a command with its output in a file.

    Raises:
        RuntimeError: If it fails, with the end of what it said.
    """
    with log.open("w") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise RuntimeError(f"{Path(command[0]).name} failed: ...{log.read_text()[-500:]}")


def vocab_size(shape: str) -> int:
    """How many tokens a shape's model knows."""
    return SHAPES[shape]["vocab_size"]
