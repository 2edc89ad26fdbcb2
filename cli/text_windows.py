"""A file of text as windows of tokens, which a model is evaluated or calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.evaluation import Window, cut_windows, leading_tokens
from ..errors import ContextLengthExceeded, InvalidRequest

if TYPE_CHECKING:
    from ..engine.model_choice import ModelChoice


def windows_of(
    path: Path,
    choice: ModelChoice,
    window: int,
    stride: int | None = None,
    max_tokens: int | None = None,
) -> list[Window]:
    """The windows of the text in a file; see `cut_windows`.

    Args:
        path: UTF-8 text.
        choice: The model, whose tokenizer cuts it.
        window: Tokens in a window, the leading ones included.
        stride: Tokens of the text between the beginnings of two windows.
        max_tokens: Tokens of the text to look at; all by default.

    Raises:
        QuireError: The file cannot be read, there is nothing in it, or a window exceeds the context.
    """
    from ..models.tokenizer import Tokenizer

    if window > choice.max_model_len:
        raise ContextLengthExceeded(
            f"a window of {window} tokens exceeds the context of {choice.max_model_len} tokens",
            param="window",
        )
    try:
        text = path.read_bytes().decode()  # as it is: read_text would change the ends of lines
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is no UTF-8 text: byte {error.start} is wrong") from error
    if not text:
        raise InvalidRequest(f"{path} is empty")
    tokenizer = Tokenizer.from_folder(choice.folder)
    token_ids = tokenizer.encode(text, add_special_tokens=False)[:max_tokens]
    return cut_windows(token_ids, leading_tokens(tokenizer), window, stride)
