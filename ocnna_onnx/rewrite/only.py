"""Whether two models differ in the values of their weights only."""

from __future__ import annotations

import numpy as np
import onnx

from ..errors import ProofFailed
from ..model.graph import Graph, constant_node_value
from ..model.light import Light


def only_values(expected: onnx.ModelProto, actual: Light) -> tuple[str, ...]:
    """Initializers whose values differ. Raises ProofFailed where more than values differs."""
    wanted, found = Graph(expected), Graph(actual.proto, actual.weights)
    if len(wanted.nodes) != len(found.nodes):
        raise ProofFailed(f"PRUNED has {len(found.nodes)} nodes, the plan gives {len(wanted.nodes)}")
    constants: list[str] = []
    for name, a, b in zip(wanted.names, wanted.nodes, found.nodes, strict=True):
        if (a.op_type, a.domain, list(a.input), list(a.output)) != (b.op_type, b.domain, list(b.input), list(b.output)):
            raise ProofFailed(f"node '{name}' of PRUNED is not the one that the plan gives", name)
        if _is_other_constant(a, b):
            constants.append(a.output[0])
        elif {x.name: x for x in a.attribute} != {x.name: x for x in b.attribute}:
            raise ProofFailed(f"node '{name}' of PRUNED has other attributes than the plan gives", name)
    if wanted.initializers.keys() != found.initializers.keys() or wanted.outputs != found.outputs:
        raise ProofFailed("PRUNED has other initializers or outputs than the plan gives")
    changed = constants
    for name, tensor in wanted.initializers.items():
        other = found.initializers[name]
        if list(tensor.dims) != list(other.dims) or tensor.data_type != other.data_type:
            raise ProofFailed(f"'{name}' of PRUNED has shape {list(other.dims)}, the plan gives {list(tensor.dims)}")
        value = found.array(name)
        if wanted.array(name).tobytes() != value.tobytes():
            if value.dtype.kind in "fV" and not np.isfinite(value.astype(np.float64)).all():
                raise ProofFailed(f"'{name}' of PRUNED holds NaN or infinite values")
            changed.append(name)
    return tuple(changed)


def _is_other_constant(a: onnx.NodeProto, b: onnx.NodeProto) -> bool:
    """Whether both are Constants of floats of one shape and type that differ in value, and are finite."""
    if a.op_type != "Constant" or b.op_type != "Constant" or a.attribute == b.attribute:
        return False
    one, two = constant_node_value(a), constant_node_value(b)
    if one is None or two is None or (one.shape, one.dtype) != (two.shape, two.dtype):
        return False
    return one.dtype.kind == "f" and bool(np.isfinite(two).all())
