"""check_wheel.py FOLDER present|absent: is all that quire needs in the package that lies in FOLDER?

Imports it beside a user's own models/, server/ and engine/, and runs the embedded model. The last word
says whether there was a compiler, and so whether the C++ extension must be there.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path

MODULES = ("quire", "quire.cli", "quire.kernels.ops", "quire.models", "quire.engine", "quire.server")
DECOYS = ("models", "server", "engine", "kernels", "errors", "cli")
STRANGERS = ("setup.py", "tests", "benchmarks", "build")


def check(folder: Path, compiler: str) -> None:
    package = folder / "quire"
    for name in MODULES:
        origin = importlib.import_module(name).__file__
        assert origin, f"{name} has no file"
        assert Path(origin).resolve().is_relative_to(package), f"{name} came from {origin}"
    for name in STRANGERS:
        assert not (package / name).exists(), f"{name} is in the wheel"
    assert (package / "py.typed").exists(), "py.typed is not in the wheel"
    weights = package / "models" / "embedded" / "weights"
    assert list(weights.glob("*.safetensors")), "the embedded model is not in the wheel"
    for name in ("index.html", "app.js", "style.css", "grafana.json", "alerts.yml"):
        assert (package / "server" / "ui" / name).exists(), f"server/ui/{name} is not in the wheel"
    extension = importlib.util.find_spec("quire.kernels._C")
    assert (extension is not None) == (compiler == "present"), f"extension {extension}, compiler {compiler}"

    from quire import LLM, SamplingParams

    llm = LLM("embedded", max_model_len=128, num_blocks=16)
    (output,) = llm.generate(["Hello"], SamplingParams(max_tokens=8, temperature=0.0), use_tqdm=False)
    assert output.outputs[0].token_ids, "the embedded model says nothing"
    print(f"{folder.name}: complete, and it generates; C++ extension {'built' if extension else 'not built'}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as decoys:
        for name in DECOYS:
            Path(decoys, name).mkdir()
            Path(decoys, name, "__init__.py").write_text("raise ImportError('a package of the user')\n")
        sys.path[:0] = [decoys, sys.argv[1]]
        check(Path(sys.argv[1]).resolve(), sys.argv[2])
