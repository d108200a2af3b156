"""Export timm's nets with random weights to ONNX, small ones of each family, as `exports.py` does torchvision's.

python tools/exports_timm.py OUTDIR [--only NAME ...] [--exporter dynamo ...] [--init random ...]
"""

from __future__ import annotations

from pathlib import Path

import torch
from exports import SEED, Exporter, Init, command_line, one_thread, randomize_and_check, write
from torch import nn

import timm  # isort: skip  (after exports, which declares torchvision's operators)

CNNS = """
    bat_resnext26ts convmixer_768_32 convnext_atto convnext_atto_ols convnext_zepto_rms convnextv2_atto cs3darknet_s
    cs3darknet_focus_s cs3sedarknet_l csatv2 cspdarknet53 cspnext_tiny cspresnet50 cspresnext50 darknet17 darknetaa53
    densenet121 densenetblur121d dla34 dla46_c dla46x_c dla60_res2net dm_nfnet_f0 dpn48b dpn68 eca_nfnet_l0
    eca_resnet33ts eca_resnext26ts eca_vovnet39b ecaresnetlight edgenext_xx_small efficientnet_b0 efficientnet_b0_gn
    efficientnet_es efficientnet_lite0 ese_vovnet19b_slim ese_vovnet19b_dw ese_vovnet39b_evos fasternet_t0 fastvit_t8
    fbnetc_100 fbnetv3_b focalnet_tiny_srf gc_efficientnetv2_rw_t gcresnet33ts gcresnext26ts gernet_s ghostnet_050
    ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0 hrnet_w18_small inception_next_atto
    inception_resnet_v2 inception_v3 inception_v4 lcnet_035 lcnetv2_small legacy_seresnet18 legacy_xception
    mambaout_femto mixnet_s mnasnet_small mobilenet_edgetpu_v2_xs mobilenetv2_035 mobilenetv3_rw
    mobilenetv3_small_050 mobilenetv4_conv_aa_medium mobilenetv4_conv_blur_medium mobilenetv4_conv_small_035
    mobileone_s0 nasnetalarge nf_regnet_b0 nf_resnet26 nf_seresnet26 nfnet_l0 pnasnet5large poolformer_s12
    poolformerv2_s12 rdnet_tiny regnetv_040 regnetx_002 regnety_002 regnetz_005 regnetz_b16_evos repghostnet_050
    repvgg_a0 repvgg_b1g4 repvit_m0_9 res2net50_14w_8s res2next50 resnest14d resnest50d_4s2x40d resnet10t resnet18d
    resnet50c resnetaa50d resnetblur18 resnetrs50 resnetv2_18 resnetv2_50d_frn resnetv2_50d_gn resnetv2_50x1_bit
    rexnet_100 rexnetr_100 selecsls42 semnasnet_050 seresnet18 seresnext26t_32x4d skresnet18 skresnext50_32x4d
    spnasnet_100 starnet_s050 tf_efficientnetv2_b0 tf_mixnet_s tf_mobilenetv3_small_minimal_100 tinynet_e tresnet_m
    tresnet_v2_l vovnet39a wide_resnet50_2 xception41 xception41p
""".split()
HYBRIDS = """
    botnet26t_256 caformer_s18 coat_lite_tiny coatnet_nano_rw_224 coatnet_bn_0_rw_224 convformer_s18 davit_tiny
    efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0 fastvit_sa12 halonet26t haloregnetz_b
    iformer_t lambda_resnet26t levit_128s levit_conv_128s maxvit_rmlp_pico_rw_256 mobilenetv4_hybrid_medium
    mobilevit_xxs mobilevitv2_050 nextvit_small pvt_v2_b0 repvit_m1_0 resmlp_12_224 sebotnet33ts_256 shvit_s1
    swiftformer_xs tiny_vit_5m_224 visformer_tiny
""".split()
SUITES = {"timm CNN": CNNS, "timm hybrid": HYBRIDS}
SIZE = 128
NATIVE = """
    botnet26t_256 coat_lite_tiny davit_tiny efficientformer_l1 efficientformerv2_s0 fastvit_sa12 halonet26t
    haloregnetz_b lambda_resnet26t nextvit_small resmlp_12_224 sebotnet33ts_256 swiftformer_xs
    maxvit_rmlp_pico_rw_256 bat_resnext26ts selecsls42 csatv2 tiny_vit_5m_224 efficientvit_m0
""".split()
"""Nets that need the size they were made for (windows, blocks, tables of positions), whether they say so or not."""


def input_shape(name: str, net: nn.Module) -> tuple[int, ...]:
    """Shape of one sample: a small picture where the net allows any size."""
    settings = net.default_cfg
    shape: tuple[int, ...] = settings["input_size"]
    fixed = settings.get("fixed_input_size") or name in NATIVE
    return shape if fixed else (shape[0], SIZE, SIZE)


def build(name: str, init: Init) -> tuple[nn.Module, tuple[int, ...]]:
    """The net in eval mode with the shape of one sample; the weights depend on `name` and `init` only."""
    torch.manual_seed(SEED)
    net = timm.create_model(name, pretrained=False).eval()
    shape = input_shape(name, net)
    if init == "random":
        with torch.no_grad(), one_thread():
            randomize_and_check(net, shape)
    return net, shape


def export(name: str, exporter: Exporter, init: Init, folder: Path) -> Path:
    """Write `timm_<name>-<exporter>-<init>.onnx` into `folder`, unless it is there already, and return its path."""
    path = Path(folder) / f"timm_{name}-{exporter}-{init}.onnx"
    if not path.exists():
        write(*build(name, init), exporter, [{0: "N"}], path)
    return path


if __name__ == "__main__":
    raise SystemExit(command_line("timm", SUITES, export))
