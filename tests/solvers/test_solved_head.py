"""What a solved head gives away: a kernel, layers, or an estimator."""

import keras
import numpy as np
import pytest
from helpers.solved_heads import make_blobs
from sklearn.naive_bayes import GaussianNB

from regraft.errors import UsageError
from regraft.solvers.solve import solve


@pytest.mark.slow
def test_kernel_and_bias_fill_a_dense_layer() -> None:
    features, centre = make_blobs()
    for solver in ("logistic", "ridge", "lda", "svm"):
        head = solve(solver, features, centre, task="multiclass")
        dense = keras.layers.Dense(4, activation="softmax")
        dense.build((None, 12))
        dense.set_weights([head.weights, head.bias])
        np.testing.assert_allclose(np.asarray(dense(features)), head.predict(features), atol=1e-5)
        model = keras.Model(features_in := keras.Input((12,)), head.build_layers(features_in))
        assert [type(layer).__name__ for layer in model.layers] == ["InputLayer", "Dense"]
        assert model.layers[-1].name == "head_output"
    assert solve("svm-rbf", features, centre, task="multiclass").weights is None


def test_a_kept_head_has_no_layers() -> None:
    features, centre = make_blobs(40)
    head = solve(GaussianNB(), features, centre, task="multiclass")
    assert head.weights is None
    with pytest.raises(UsageError, match="kept with skops"):
        head.build_layers(features)
