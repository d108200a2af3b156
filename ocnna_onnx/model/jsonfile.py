"""JSON files that people hand over."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError


def read_json(path: str | os.PathLike[str], else_: str) -> Any:
    """The content. else_: what to call a file that is no JSON (`not a plan`). Raises UsageError where it cannot be
    read, DataError where it is no JSON."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: {else_} (it is no JSON)") from error
