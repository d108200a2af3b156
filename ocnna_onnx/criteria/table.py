"""The criteria by name. A new one is a function and a line here; every one is higher = keep."""

from __future__ import annotations

from typing import Any

from ..errors import UsageError
from .blend import BLEND
from .bn_scale import BN_SCALE
from .chip import CHIP
from .group_l2 import GROUP_L2
from .hrank import HRANK
from .magnitude import l1, l2, lamp
from .obs import OBS
from .ocnna import OCNNA
from .random import RANDOM
from .request import Criterion, Options, from_weights
from .response import ACTIVATION_ENTROPY, ACTIVATION_L2, ACTIVATION_VAR, APOZ
from .similarity import fpgm
from .wanda import WANDA

CRITERIA: dict[str, Criterion] = {
    "ocnna": OCNNA,
    "l1": from_weights(l1, "Li 2017"),
    "l2": from_weights(l2, "Li 2017"),
    "group-l2": GROUP_L2,
    "fpgm": from_weights(fpgm, "He 2019"),
    "bn-scale": BN_SCALE,
    "lamp": from_weights(lambda trace, source: lamp(l2(trace, source)), "Lee 2021"),
    "hrank": HRANK,
    "chip": CHIP,
    "apoz": APOZ,
    "activation-l2": ACTIVATION_L2,
    "activation-var": ACTIVATION_VAR,
    "activation-entropy": ACTIVATION_ENTROPY,
    "wanda": WANDA,
    "obs": OBS,
    "random": RANDOM,
    "blend": BLEND,
}

CRITERION = "ocnna"
"""The default."""

AUTO = "auto"
"""No criterion, but the wish that a prune chooses one (`ocnna_onnx.auto`)."""


def parsed(text: Any) -> tuple[str, Criterion, Options]:
    """`ocnna`, or `ocnna:variance=1,tap=activation` -> name, criterion and all its options. Raises UsageError."""
    if not isinstance(text, str):
        raise UsageError(f"criterion {text!r} is no name")
    name, _, rest = text.partition(":")
    if name == AUTO:
        raise UsageError(
            "criterion auto is for prune alone, and takes no options: candidates are compared at the cut that is asked "
            f"for; choose one of {', '.join(CRITERIA)}"
        )
    if name not in CRITERIA:
        raise UsageError(f"unknown criterion '{name}'; choose one of {', '.join(CRITERIA)} (of a prune also {AUTO})")
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
