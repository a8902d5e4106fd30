"""Small SavedModels as publishers make them, for the tests of what reads them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


class Net(tf.Module):
    """Convolution, batch normalisation, ReLU; a penalty on the kernel."""

    def __init__(self, pooled=True):
        super().__init__()
        rng = np.random.default_rng(0)
        self.pooled = pooled
        self.kernel = tf.Variable(rng.normal(0, 0.3, (3, 3, 3, 4)).astype("float32"), name="conv/kernel")
        self.gamma = tf.Variable(tf.ones(4), name="bn/gamma")
        self.beta = tf.Variable(tf.fill([4], 0.1), name="bn/beta")
        self.mean = tf.Variable(tf.fill([4], 0.2), trainable=False, name="bn/moving_mean")
        self.variance = tf.Variable(tf.fill([4], 0.5), trainable=False, name="bn/moving_variance")

    @tf.function
    def __call__(self, x, training=False):
        x = tf.nn.conv2d(x, self.kernel, 2, "SAME")
        mean, variance = self.mean, self.variance
        if training:
            mean, variance = tf.nn.moments(x, [0, 1, 2])
            self.mean.assign(0.9 * self.mean + 0.1 * mean)
            self.variance.assign(0.9 * self.variance + 0.1 * variance)
        x = tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, 1e-3))
        return tf.reduce_mean(x, [1, 2]) if self.pooled else x

    def run(self, x):
        return self(x)

    @tf.function
    def penalty(self):
        return 0.01 * tf.reduce_sum(self.kernel**2)


def images(side=None):
    return tf.TensorSpec([None, side, side, 3], tf.float32)


def reusable(folder, *, side=16, pooled=True):
    """The format of TensorFlow Hub's feature vectors: callable, in both modes, with named variables."""
    net = Net(pooled)
    for training in (False, True):
        net.__call__.get_concrete_function(images(side), training=training)
    net.penalty.get_concrete_function()
    root = tf.train.Checkpoint(net=net)
    root.__call__ = net.__call__
    root.trainable_variables = [net.kernel, net.gamma, net.beta]
    root.variables = [*root.trainable_variables, net.mean, net.variance]
    root.regularization_losses = [net.penalty]
    tf.saved_model.save(root, str(folder))
    return folder


def signature_only(folder, function, *specs):
    """What can only be run: one signature, no call."""
    root = tf.train.Checkpoint(**({"net": function} if isinstance(function, tf.Module) else {}))
    traced = tf.function(getattr(function, "run", function)).get_concrete_function(*specs)
    tf.saved_model.save(root, str(folder), signatures={"serving_default": traced})
    return folder


def hub1(folder):
    """TensorFlow 1's Hub format: a graph for inference and one for training, each under its tags."""
    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(folder))
    for number, tags in enumerate([[], ["train"]]):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None, 16, 16, 3], name="images")
            kernel = v1.get_variable("kernel", initializer=np.full((3, 3, 3, 4), 0.1, "float32"))
            vector = tf.reduce_mean(tf.nn.conv2d(x, kernel, 1, "SAME"), [1, 2])
            session.run(v1.global_variables_initializer())
            signature = v1.saved_model.predict_signature_def({"images": x}, {"default": vector})
            signatures = {"default": signature}
            if number:
                builder.add_meta_graph(tags, signature_def_map=signatures)
            else:
                builder.add_meta_graph_and_variables(session, tags, signature_def_map=signatures)
    builder.save()
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")
    return folder
