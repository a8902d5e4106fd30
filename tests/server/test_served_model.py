"""A served model explains an image as `explain` does, whatever head it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import write_photos

import regraft
from regraft.data.images.decode import decode
from regraft.explanation.explainer import Explainer
from regraft.recipe import HeadSpec, Taps
from regraft.server.served_model import ServedModel
from regraft.system.console import SILENT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_this_process")]


@pytest.mark.parametrize("taps", ["last", "late"])
def test_heat_is_that_of_explain(network_file: Path, tmp_path: Path, taps: Taps) -> None:
    photos = write_photos(tmp_path / "photos", each=8)
    recipe = regraft.Recipe(
        backbone=str(network_file), phases=(), precision="f32", head=HeadSpec(taps=taps, solver="ridge")
    )
    run = regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store")
    file = sorted(photos.rglob("*.png"))[0]
    (expected,) = Explainer(run.bundle).explain([file])
    served = ServedModel.open("photos", run.path, reporter=SILENT)
    pixels = decode(file.read_bytes(), run.bundle.image_size).pixels
    (output,) = served.compute([pixels])
    answer = served.explain("file", pixels, output, coverage=0.9)
    assert answer["method"] == "map"
    for part, heat in zip(answer["maps"], expected.heat, strict=True):
        np.testing.assert_allclose(part["heat"], heat, rtol=1e-4, atol=6e-6)  # five digits
