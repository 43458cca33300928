"""The networks for TensorFlow's converter: Keras' own, and ResNet-18, which Keras has not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from benchmarks.engine.settings import B1, Network

layers = tf.keras.layers


def build(network: Network) -> tf.keras.Model:
    """Return a network with random weights and the statistics of a random batch; no softmax."""
    tf.keras.utils.set_random_seed(0)
    shape = (network.side, network.side, 3)
    plain = {"weights": None, "input_shape": shape, "classifier_activation": None}
    makers = {
        B1: lambda: tf.keras.applications.EfficientNetB1(**plain),
        "mobilenet_v2": lambda: tf.keras.applications.MobileNetV2(**plain),
        "resnet18": lambda: resnet18(shape, network.classes),
    }
    if network.name not in makers:
        raise LookupError(f"Keras has no {network.name}")
    model = makers[network.name]()
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    normal = np.random.default_rng(1).standard_normal((8, *shape), dtype=np.float32)
    model(_as_taken(network, normal), training=True)
    return model


def _as_taken(network: Network, normal: np.ndarray) -> np.ndarray:
    """Return normalized images as a network takes them: Keras' B1 normalizes pixels itself."""
    return np.clip(normal * 57 + 121, 0, 255) if network.name == B1 else normal


def resnet18(shape: tuple[int, int, int], classes: int) -> tf.keras.Model:
    """Return torchvision's ResNet-18 (He et al., 2015), layer by layer."""
    images = tf.keras.Input(shape)
    x = layers.ReLU()(_convolution(images, 64, 7, 2))
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for channels, stride in ((64, 1), (64, 1), (128, 2), (128, 1), *_LAST):
        short = x
        if stride != 1:
            short = _convolution(x, channels, 1, stride)
        inner = layers.ReLU()(_convolution(x, channels, 3, stride))
        x = layers.ReLU()(layers.Add()([_convolution(inner, channels, 3, 1), short]))
    x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(images, layers.Dense(classes)(x))


_LAST = ((256, 2), (256, 1), (512, 2), (512, 1))


def _convolution(x, channels: int, kernel: int, stride: int):
    """Convolve and normalize; padding is the same on both sides, as torch's."""
    if stride == 1:
        x = layers.Conv2D(channels, kernel, padding="same", use_bias=False)(x)
    else:
        if kernel > 1:
            x = layers.ZeroPadding2D(kernel // 2)(x)
        x = layers.Conv2D(channels, kernel, stride, use_bias=False)(x)
    return layers.BatchNormalization()(x)


def quantized(
    model: tf.keras.Model, network: Network, batch: int, images: Iterator[np.ndarray]
) -> bytes:
    """Return the int8 model for a number of images, calibrated on those of [N, 3, side, side]."""
    taken = [_as_taken(network, x.transpose(0, 2, 3, 1)).astype(np.float32) for x in images]
    shape = (batch, network.side, network.side, 3)
    call = tf.function(lambda x: model(x, training=False))
    traced = call.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    frozen = convert_variables_to_constants_v2(traced)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x] for x in taken)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()
