"""Exports small Keras models by tf2onnx and writes them as graph JSON to testdata/tensorflow.

Why: the rewriter recognises softmax, norms, activations and attention in what exporters make of them, and tests of that
need what TensorFlow's really makes. Weights are small and pseudo-random.

Needs `pip install tensorflow-cpu tf2onnx onnx`, and `aic` built. Usage: python tools/export_tensorflow.py AIC
"""

import pathlib
import subprocess
import sys
import tempfile

import tensorflow as tf
import tf2onnx
from tensorflow import keras
from tensorflow.keras import layers

OUT_DIR = pathlib.Path(__file__).resolve().parent.parent / "testdata" / "tensorflow"
ROWS, WIDTH = 6, 8


def gelu(x):
    """By the error function; TensorFlow's own is by erfc, which ONNX doesn't have."""
    return 0.5 * x * (1.0 + tf.math.erf(x / tf.sqrt(2.0)))


def gelu_tanh(x):
    return tf.nn.gelu(x, approximate=True)


def encoder_layer(x):
    attended = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, attended]))
    hidden = layers.Dense(16, activation=gelu)(x)
    return layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, layers.Dense(WIDTH)(hidden)]))


def models():
    """Name, model, and the extent of the batch."""
    x = keras.Input((ROWS, WIDTH))
    mask = keras.Input((ROWS, ROWS), dtype="bool")
    attention = layers.MultiHeadAttention(2, 4)
    yield "encoder", keras.Model(x, encoder_layer(x)), None
    yield "attention_causal", keras.Model(x, attention(x, x, use_causal_mask=True)), None
    yield "attention_masked", keras.Model([x, mask], attention(x, x, attention_mask=mask)), 2
    normed = layers.RMSNormalization()(x)
    activations = (gelu_tanh, "silu", "hard_silu", "mish", "log_softmax")
    yield "activations", keras.Model(x, [layers.Activation(f)(normed) for f in activations]), None


def main():
    keras.utils.set_random_seed(0)
    OUT_DIR.mkdir(exist_ok=True)
    for name, model, batch in models():
        signature = [tf.TensorSpec([batch, *i.shape[1:]], i.dtype, name=f"x{k}") for k, i in enumerate(model.inputs)]
        run = tf.function(lambda *args, model=model: model(list(args), training=False), input_signature=signature)
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/{name}.onnx"
            tf2onnx.convert.from_function(run, input_signature=signature, opset=17, output_path=path)
            subprocess.run([sys.argv[1], "convert", path, "-o", OUT_DIR / f"{name}.json"], check=True)


if __name__ == "__main__":
    main()
