"""What was computed before (scores, sensitivities): by content of the model, the samples, the options, and of this
package."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..data.samples import Samples
from ..errors import OcnnaError
from ..model.save import write_atomically

Found = TypeVar("Found")

FOLDER = "OCNNA_ONNX_CACHE"
"""The environment variable that names the folder; by default it is `ocnna-onnx` in the user's cache folder."""

MOST = 256
"""Files that the folder may hold; the oldest go."""


def cached(key: str, read: Callable[[Any, str], Found]) -> Found | None:
    """What an earlier run kept, or None. read(content, path): from JSON; what it refuses counts as none."""
    path = cache_folder() / f"{key}.json"
    try:
        return read(json.loads(path.read_text("utf-8")), str(path))
    except (OSError, ValueError, OcnnaError):
        return None


def remember(key: str, content: Mapping[str, Any]) -> None:
    """Keep it (as JSON) for later runs, where the folder can be written."""
    folder = cache_folder()
    with contextlib.suppress(OSError, OcnnaError):
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dict(content), allow_nan=False)
        write_atomically(folder / f"{key}.json", lambda stream: stream.write(text.encode()))
        files = sorted(folder.glob("*.json"), key=lambda f: f.stat().st_mtime)
        for old in files[:-MOST]:
            old.unlink(missing_ok=True)


def key_of(about: Mapping[str, Any], samples: Samples | None) -> str:
    """A digest of everything that a result depends on. samples: None where they do not matter."""
    import onnxruntime

    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True, default=str).encode())
    digest.update(onnxruntime.__version__.encode() + np.__version__.encode())
    package = Path(__file__).parent.parent
    for path in sorted(package.rglob("*.py")):  # a blend depends on how nets are pruned, too
        digest.update(path.read_bytes())
    if samples is not None:
        digest.update(samples.digest.encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where results of earlier runs lie."""
    given = os.environ.get(FOLDER)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(given).expanduser() if given else Path(base).expanduser() / "ocnna-onnx"
