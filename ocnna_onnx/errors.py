"""Every error that ocnna-onnx raises on purpose, each with its exit code (one line: what, where, what to do)."""

from __future__ import annotations


class OcnnaError(Exception):
    """Base of all errors a user can cause or meet. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(OcnnaError):
    """An option out of range, a path that is missing or unwritable, an extra that is not installed."""

    exit_code = 2


class ModelError(OcnnaError):
    """The model's contents: not ONNX, broken, or refused by onnxruntime."""

    exit_code = 3


class ShapeNeeded(ModelError):
    """A symbolic dimension that cannot be guessed. `input_name` is the input that needs a shape."""

    exit_code = 2

    def __init__(self, message: str, input_name: str) -> None:
        super().__init__(message)
        self.input_name = input_name


class DataError(OcnnaError):
    """The contents of data, plan or scores: misshaped, NaN, or not of this model."""

    exit_code = 4


class NothingFree(OcnnaError):
    """No unit in this model is free to go. `walls` holds (node, op, tensor, reason) rows."""

    exit_code = 6

    def __init__(self, message: str, walls: tuple[tuple[str, str, str, str], ...] = ()) -> None:
        super().__init__(message)
        self.walls = walls


class TargetMissed(OcnnaError):
    """A target cannot be met; nothing was written. `reached`: how far it got, per kind of target."""

    exit_code = 5

    def __init__(self, message: str, reached: dict[str, float] | None = None) -> None:
        super().__init__(message)
        self.reached = reached or {}


class ProofFailed(OcnnaError):
    """The pruned model differs from the masked original, or the proof could not have failed; nothing was written.

    `node` is the first node (in topological order) whose output differs, `error` the relative error there.
    """

    exit_code = 7

    def __init__(self, message: str, node: str = "", error: float = float("nan")) -> None:
        super().__init__(message)
        self.node = node
        self.error = error
