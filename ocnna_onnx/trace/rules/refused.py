"""Operators that channels cannot pass, and why, where a person would ask: what `inspect` says in place of a rule."""

from __future__ import annotations

import onnx

from ...model.graph import is_standard

BLOCKED = "channels are stored in blocks for one kind of CPU; save the model at ORT_ENABLE_EXTENDED or below instead"
DOMAINS = {"com.microsoft.nchwc": BLOCKED}
BODIES = "what its body makes of them is not followed"
SEQUENCES = "channels are not followed through sequences"
HEADS = "channels are split into heads inside it; export it as MatMul and Softmax instead"
NORM = "a normalization over channels changes the values of those that stay"
PACKED = "its weights are packed in blocks of a few bits"
VALUES = "its result counts or sorts values, so every channel has its say in every position"
STANDARD = {
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), BODIES),
    **dict.fromkeys(
        (
            *("SequenceAt", "SequenceConstruct", "SequenceErase", "SequenceInsert", "SequenceLength"),
            *("SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement"),
        ),
        SEQUENCES,
    ),
    **dict.fromkeys(("Attention", "RotaryEmbedding", "LinearAttention", "TensorScatter"), HEADS),
    **dict.fromkeys(("NonZero", "Unique", "NonMaxSuppression", "TfIdfVectorizer"), VALUES),
    "OneHot": "it makes positions of values",
    "EyeLike": "the matrix that it makes has the size of what it reads",
    "MaxUnpool": "its indices count positions over all channels",
    "AffineGrid": "it takes them for the entries of transformations",
    "STFT": "a Fourier transform mixes what it reads",
    "BitCast": "it takes their bits for numbers of another type",
    "ImageDecoder": "it takes them for the bytes of a file",
    "CausalConvWithState": "its state carries them from one run to the next",
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), "they are the classes of a loss"),
}
MICROSOFT = {
    **dict.fromkeys(
        (
            *("Attention", "MultiHeadAttention", "QAttention", "GroupQueryAttention", "PackedAttention"),
            *("PackedMultiHeadAttention", "DecoderMaskedMultiHeadAttention", "SparseAttention", "LinearAttention"),
            *("RotaryEmbedding", "MRotaryEmbedding", "GemmaRotaryEmbedding"),
        ),
        HEADS,
    ),
    **dict.fromkeys(
        (
            *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "EmbedLayerNormalization"),
            *("QEmbedLayerNormalization", "SkipGroupNorm", "GroupNorm", "GatedRMSNorm", "BranchwiseRMSNorm"),
        ),
        NORM,
    ),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized", "MoE", "QMoE"), PACKED),
    **dict.fromkeys(("DynamicQuantizeLSTM", "AttnLSTM"), "the channels of a quantized LSTM stay as they are"),
    "Unique": VALUES,
}
REASONS = {
    **{("", op): why for op, why in STANDARD.items()},
    **{("com.microsoft", op): why for op, why in MICROSOFT.items()},
}


def reason_without_rule(node: onnx.NodeProto) -> str:
    """Why the channels that reach an operator without a rule stay."""
    kind = node.op_type if is_standard(node) else f"{node.domain}.{node.op_type}"
    domain = "" if is_standard(node) else node.domain
    why = REASONS.get((domain, node.op_type), DOMAINS.get(domain))
    return f"no rule for the operator {kind}" if why is None else f"{kind}: {why}"
