"""The tiny chat model that ships with quire, and the scripts that made it.

``PATH`` is the folder with the weights in Hugging Face format; importing this module loads nothing else.
"""

from pathlib import Path

PATH: Path = Path(__file__).resolve().parent / "weights"

__all__ = ["PATH"]
