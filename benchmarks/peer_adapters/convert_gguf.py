"""llama.cpp's converter, for a model whose tokenizer it does not know: the file gets no vocabulary.

    python convert_gguf.py LLAMA_CPP_SOURCE MODEL_FOLDER OUTPUT.gguf

llama-batched-bench draws random token ids and needs nothing but their number.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Runs the converter with its `set_vocab` replaced."""
    source, model, output = sys.argv[1:]
    sys.path[:0] = [source, str(Path(source) / "gguf-py")]
    import convert_hf_to_gguf as converter
    from conversion.llama import LlamaModel
    from conversion.qwen import Qwen2Model

    def no_vocabulary(self: object) -> None:
        self.gguf_writer.add_tokenizer_model("none")  # type: ignore[attr-defined]
        self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])  # type: ignore[attr-defined]

    Qwen2Model.set_vocab = no_vocabulary
    LlamaModel.set_vocab = no_vocabulary
    sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", output, "--outtype", "bf16"]
    converter.main()


if __name__ == "__main__":
    main()
