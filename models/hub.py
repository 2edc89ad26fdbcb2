"""From the name of a model to a folder on disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import ModelError, NotFound

EMBEDDED = "embedded"

ALLOWED_FILES = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]
# Second copies of the weights in other frameworks' layouts.
IGNORED_FILES = ["consolidated*", "original/*", "onnx/*"]

# owner/name as the hub allows them: no leading dot or dash, and so nothing that looks like a path.
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def resolve_model(name: str, revision: str | None = None) -> Path:
    """Finds a model's folder, downloading it if the name is a hub id that is not cached yet.

    Args:
        name: "embedded" for the model that ships with quire, a local folder, or a hub id
            `owner/name`.
        revision: Branch, tag or commit of a hub model.

    Raises:
        NotFound: There is no such folder, and no such model on the hub.
        ModelError: The hub cannot be reached and the model is not in the cache.
    """
    if name == EMBEDDED:
        return Path(__file__).parent / "embedded" / "weights"
    if os.path.isdir(name):  # unlike Path's, false for a name that no path can have
        return Path(name).resolve()
    if not _HUB_ID.fullmatch(name) or ".." in name or len(name) > 200:
        raise NotFound(f"{name[:200]!r} is neither a folder nor a hub id of the form owner/name.")
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=ALLOWED_FILES, ignore_patterns=IGNORED_FILES
        )
    except GatedRepoError as error:
        raise ModelError(f"{name} is gated: accept its licence on the hub and set HF_TOKEN.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise NotFound(f"There is no model {name} on the hub, or it is private.") from error
    except RevisionNotFoundError as error:
        raise NotFound(f"The hub model {name} has no revision {revision!r}.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{name} is not in the local cache and the hub cannot be reached; "
            "download it first, or give a local folder."
        ) from error
    return Path(folder)
