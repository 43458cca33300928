"""One small member of every family of networks that torchvision and timm have."""

from __future__ import annotations

# By the module of the package that defines the family, or by what sets its members apart there.
TORCHVISION = {
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "efficientnet v2": "efficientnet_v2_s",
    "googlenet": "googlenet",
    "inception": "inception_v3",
    "mnasnet": "mnasnet0_5",
    "mobilenet v2": "mobilenet_v2",
    "mobilenet v3": "mobilenet_v3_small",
    "regnet": "regnet_y_400mf",
    "resnet": "resnet18",
    "shufflenet v2": "shufflenet_v2_x0_5",
    "squeezenet": "squeezenet1_1",
    "vgg": "vgg11_bn",
}
TIMM = {
    "byoanet": "botnet26t_256",
    "byobnet, gernet": "gernet_s",
    "byobnet, mobileone": "mobileone_s0",
    "byobnet, repvgg": "repvgg_a0",
    "byobnet, resnet with gates": "eca_resnet33ts",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "convnext v2": "convnextv2_atto",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "densenet, blurred": "densenetblur121d",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientnet": "tf_efficientnet_lite0",
    "efficientnet, fbnet": "fbnetc_100",
    "efficientnet, mixnet": "mixnet_s",
    "efficientnet, mnasnet": "mnasnet_small",
    "efficientnet, semnasnet": "semnasnet_075",
    "efficientnet v2": "efficientnetv2_rw_t",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "ghostnet": "ghostnet_050",
    "ghostnet v3": "ghostnetv3_050",
    "hardcorenas": "hardcorenas_a",
    "hgnet": "hgnetv2_b0",
    "hrnet": "hrnet_w18_small",
    "inception next": "inception_next_atto",
    "inception resnet": "inception_resnet_v2",
    "inception v4": "inception_v4",
    "lcnet": "lcnet_050",
    "lcnet v2": "lcnetv2_base",
    "mambaout": "mambaout_femto",
    "metaformer": "poolformer_s12",
    "mobilenet v3": "mobilenetv3_small_050",
    "mobilenet v4": "mobilenetv4_conv_small_050",
    "nfnet": "nfnet_l0",
    "pnasnet": "pnasnet5large",
    "rdnet": "rdnet_tiny",
    "regnet": "regnety_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2net50_14w_8s",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnet v2": "resnetv2_50",
    "resnet v2, standardized": "resnetv2_50x1_bit",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "tresnet": "tresnet_m",
    "vovnet": "ese_vovnet19b_dw",
    "xception": "legacy_xception",
    "xception, aligned": "xception41",
}
# Attention beside or in place of convolutions.
TRANSFORMERS = {
    "coatnet": "coatnet_pico_rw_224",
    "efficientformer": "efficientformer_l1",
    "efficientvit": "efficientvit_b0",
    "levit": "levit_128s",
    "mobilevit": "mobilevit_xxs",
    "swin": "swin_tiny_patch4_window7_224",
    "vision transformer": "vit_tiny_patch16_224",
}


def every() -> dict[str, tuple[str, str]]:
    """Return family and kind ("CNN" or "transformer") of each network, by its architecture."""
    found = {name: (f"torchvision {family}", "CNN") for family, name in TORCHVISION.items()}
    found |= {f"timm:{name}": (f"timm {family}", "CNN") for family, name in TIMM.items()}
    attention = {n: (f"timm {f}", "transformer") for f, n in TRANSFORMERS.items()}
    return found | {f"timm:{name}": about for name, about in attention.items()}
