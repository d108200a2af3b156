"""`--data script.py[:function]`: the user's own Python code brings the samples (polygraphy's convention)."""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError, OcnnaError, UsageError
from .feeds import reader_feeds

DEFAULT_FUNCTION = "load_data"

MODULE = "_ocnna_onnx_data_script"
"""What the script's module is called: a name that nothing else imports."""


def script_of(text: str) -> tuple[Path, str] | None:
    """(file, function) where the text names a Python script, else None."""
    path, colon, function = text.rpartition(":")
    if colon and path.endswith(".py"):
        return Path(path), function
    return (Path(text), DEFAULT_FUNCTION) if text.endswith(".py") else None


def script_feeds(path: Path, function: str) -> Generator[Any, None, None]:
    """What the function of the script returns or yields, item by item. The script is run.

    Raises UsageError where it has no such function, DataError (file and line) for an error inside it.
    """
    with _guarded(path):
        module = types.ModuleType(MODULE)
        module.__file__ = str(path)
        sys.modules[MODULE] = module  # dataclasses look a class's module up there
        try:
            exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
            load = getattr(module, function, None)
            if not callable(load):
                names = [n for n, v in vars(module).items() if isinstance(v, types.FunctionType) and n[0] != "_"]
                have = f"it has {', '.join(names)}" if names else "it has none"
                raise UsageError(
                    f"--data {path}: there is no function '{function}' in it ({have}); name it: {path}:NAME"
                )
            found = load()
            if hasattr(found, "get_next"):
                found = reader_feeds(found)
            if not isinstance(found, Iterable):
                raise DataError(f"{path}: {function}() gave a {type(found).__name__}; expected an iterable of dicts")
            yield from found
        finally:
            sys.modules.pop(MODULE, None)


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """With the script's folder on the import path, and its errors as ours."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    except (OcnnaError, GeneratorExit, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        raise DataError(f"{error.filename or path}, line {error.lineno}: SyntaxError: {error.msg}") from error
    except BaseException as error:  # whatever a stranger's code raises, SystemExit too
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{where}: {type(error).__name__}: {first}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
