"""The criteria by name. A new one is a function and a line here; every one is higher = keep."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from .blend import BLEND
from .magnitude import l1, l2
from .ocnna import OCNNA
from .random import RANDOM
from .request import Criterion, Options, from_weights

CRITERIA: dict[str, Criterion] = {
    "ocnna": OCNNA,
    "l1": from_weights(l1, "Li 2017"),
    "l2": from_weights(l2, "Li 2017"),
    "random": RANDOM,
    "blend": BLEND,
}


def parsed(text: Any) -> tuple[str, Criterion, Options]:
    """`ocnna`, or `ocnna:variance=1,tap=activation` -> name, criterion and all its options. Raises UsageError."""
    if not isinstance(text, str):
        raise UsageError(f"criterion {text!r} is no name")
    name, _, rest = text.partition(":")
    if name not in CRITERIA:
        raise UsageError(f"unknown criterion '{name}'; choose one of {', '.join(CRITERIA)}")
    criterion = CRITERIA[name]
    options = dict(criterion.options)
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in options:
            have = ", ".join(f"{k}={v}" for k, v in criterion.options.items()) or "none"
            raise UsageError(f"criterion {text}: '{part}' is no option of {name} (it has {have})")
        options[key] = _typed(f"criterion {text}: {key}", value, options[key])
    return name, criterion, options


def _typed(what: str, value: str, default: Any) -> Any:
    """The value as what the default is: a number, or a word."""
    if isinstance(default, str):
        return value
    try:
        return type(default)(value)
    except ValueError:
        raise UsageError(f"{what} must be a number, not '{value}'") from None
