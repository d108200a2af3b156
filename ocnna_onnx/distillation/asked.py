"""A distillation behind something else, as it is asked for."""

from __future__ import annotations

from ..errors import UsageError
from ..settings import Settings
from .extra import onnx2torch
from .recipe import Recipe, recipe_named


def recipe_for(distill: str | float, settings: Settings) -> Recipe:
    """A distillation as it is asked for, once the extra and samples are seen to be there. Raises UsageError."""
    recipe = recipe_named(distill, settings.seed)
    if settings.data is None:
        raise UsageError("distillation learns from samples, without labels: give data (--data), the more the better")
    onnx2torch()
    return recipe
