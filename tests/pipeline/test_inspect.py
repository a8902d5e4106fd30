"""`regraft inspect`: the content of a file or run, and why it would be refused."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import pytest
from helpers import malicious_models
from typer.testing import CliRunner

from regraft.cli import app
from regraft.errors import UsageError
from regraft.pipeline.inspect import inspect


def test_layers_and_parameters_are_those_of_keras(network_file: Path) -> None:
    model = keras.models.load_model(network_file)
    inspection = inspect(network_file)
    assert inspection.suspicious == ()
    assert inspection.parameters == sum(weight.shape.num_elements() for weight in model.weights)
    assert inspection.inputs[0][1] == [None, 32, 32, 3]
    assert inspection.outputs == (model.layers[-1].name,)
    counts = {kind.name: (kind.layers, kind.parameters) for kind in inspection.kinds}
    for name, (number, parameters) in counts.items():
        layers = [layer for layer in model.layers if type(layer).__name__ == name]
        assert len(layers) == number
        if name != "Dropout":  # the state of its random numbers is not a parameter
            assert sum(layer.count_params() for layer in layers) == parameters
    assert inspection.saved_by.startswith(f"Keras {keras.__version__}")


def test_a_hostile_file_is_shown_and_ends_with_exit_code_5(tmp_path: Path) -> None:
    model = malicious_models.functional(
        malicious_models.layer("Lambda", "evil\x1b[2J", {}), last=malicious_models.dense(units=10**9)
    )
    path = malicious_models.write(tmp_path / "evil.keras", malicious_models.members(model))
    done = CliRunner().invoke(app, ["inspect", str(path)])
    assert done.exit_code == 5
    assert "REFUSED     layer 'evil\\x1b[2J' ('Lambda') runs a program." in done.stdout
    assert "would hold about 193,000,000,000 numbers" in done.stdout  # all reasons, not the first one
    assert "\x1b" not in done.stdout
    inspection = json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)
    assert len(inspection["suspicious"]) == 2
    assert inspection["members"].keys() == {"metadata.json", "config.json", "model.weights.h5"}


def test_another_file_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04K\x01.")
    assert "a pickle" in inspect(tmp_path / "model.pkl").suspicious[0]
    with pytest.raises(UsageError, match="nothing at"):
        inspect(tmp_path / "nowhere.keras")


@pytest.mark.slow
def test_a_run_is_compared_with_its_manifest(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    model = malicious_models.sound(run / "model.keras")
    manifest = {
        "format": 2, "task": "multiclass", "outputs": ["a", "b", "c", "d"], "thresholds": {}, "photos": 1,
        "pixels": {"size": 8}, "backbone": {"name": "own"}, "head": "solved", "trained": [],
        "versions": {"keras": "3.15.1"}, "files": {"model.keras": inspect(model).sha256},
    }  # fmt: skip
    (run / "manifest.json").write_text(json.dumps(manifest))
    done = CliRunner().invoke(app, ["inspect", str(run)])
    assert done.exit_code == 0
    assert "unchanged   model.keras" in done.stdout
    assert 'versions    {"keras": "3.15.1"}' in done.stdout
    malicious_models.write(
        run / "model.keras",
        malicious_models.members(malicious_models.functional(last=malicious_models.dense(use_bias=True))),
    )
    done = CliRunner().invoke(app, ["inspect", str(run)])
    assert (done.exit_code, inspect(run).changed) == (5, ("model.keras",))


def test_inputs_are_those_of_the_model_and_not_of_networks_within_it(tmp_path: Path) -> None:
    inner_image = keras.Input((8, 8, 3), name="pixels")
    inner = keras.Model(inner_image, keras.layers.Conv2D(2, 3)(inner_image), name="inner")
    image = keras.Input((8, 8, 3), name="pixels")
    models = {
        "functional": keras.Model(image, keras.layers.ReLU(name="end")(inner(image))),
        "sequential": keras.Sequential(
            [keras.Input((8, 8, 3), name="pixels"), inner, keras.layers.ReLU(name="end")]
        ),
        "two": keras.Model([image, keras.Input((4,), name="other")], [inner(image), image]),
    }
    results = {}
    for name, model in models.items():
        model.save(tmp_path / f"{name}.keras")
        inspection = inspect(tmp_path / f"{name}.keras")
        assert inspection.suspicious == ()
        results[name] = (inspection.inputs, inspection.outputs)
    one = (("pixels", [None, 8, 8, 3]),)
    assert results["functional"] == results["sequential"] == (one, ("end",))
    assert results["two"] == ((*one, ("other", [None, 4])), ("inner", "pixels"))
