"""Only SavedModels that a user has vouched for are run."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import write_photos
from helpers.networks import answer, pixels
from typer.testing import CliRunner

import regraft
from regraft.backbones.load import load_backbone
from regraft.cli import app
from regraft.errors import ModelRefused
from regraft.model_scan import trust as trust_module
from regraft.model_scan.trust import expect_trust, is_trusted, trust
from regraft.pipeline.inspect import inspect
from regraft.recipe import Recipe

DIGEST = "5a" * 32
needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="SavedModels need TensorFlow"
)


@pytest.fixture
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that trusts nothing yet."""
    trust_module._TRUSTED_HERE.clear()
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "another machine"))
    return tmp_path / "another machine"


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from helpers.savedmodels import reusable

    return Path(reusable(tmp_path_factory.mktemp("modules") / "vector"))


def test_trust_is_said_once_and_remembered_by_content(
    another_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ModelRefused, match=rf"^it holds a SavedModel, sha256 {DIGEST},.*say so once: --trust"
    ):
        expect_trust("it", DIGEST, user_trusts=False)
    expect_trust("it", DIGEST, user_trusts=True)
    trust_module._TRUSTED_HERE.clear()  # another process
    expect_trust("it", DIGEST, user_trusts=False)
    assert not is_trusted("5b" * 32)


def test_trust_lasts_as_long_as_the_process_where_nothing_can_be_written(another_machine: Path) -> None:
    another_machine.write_text("no folder")
    trust(DIGEST)
    assert is_trusted(DIGEST)


@pytest.mark.parametrize("digest", ["../" * 8 + "tmp/evil", "", "5A" * 32, None])
def test_what_is_no_digest_makes_no_file(digest: str, another_machine: Path) -> None:
    with pytest.raises(ModelRefused, match="no SHA-256"):
        trust(digest)
    assert not another_machine.exists()


@pytest.mark.slow
@needs_tensorflow
def test_the_graph_of_a_stranger_is_not_even_read(
    module: Path, another_machine: Path, tmp_path: Path
) -> None:
    unreadable = shutil.copytree(module, tmp_path / "vector")
    (unreadable / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(ModelRefused, match="vector holds a SavedModel, sha256"):
        load_backbone(unreadable)
    with pytest.raises(ModelRefused, match="vector holds a SavedModel, sha256"):
        load_backbone(module)
    first = load_backbone(module, trust=True).model
    x = pixels(16)
    np.testing.assert_array_equal(answer(load_backbone(module).model, x), answer(first, x))


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize("command", ["train", "search", "embed", "check", "recommend"])
def test_every_command_with_a_backbone_asks_for_trust(
    command: str, module: Path, photos: Path, another_machine: Path, tmp_path: Path
) -> None:
    option = "--backbones" if command == "recommend" else "--backbone"
    made = ["--out", str(tmp_path / "out.csv")] if command in ("train", "search", "embed") else []
    done = CliRunner().invoke(app, [command, str(photos), option, str(module), *made])
    assert isinstance(done.exception, ModelRefused)
    assert done.exception.exit_code == 5
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.slow
@needs_tensorflow
def test_a_run_opens_where_it_was_made_and_elsewhere_only_with_trust(
    module: Path,
    another_machine: Path,
    tmp_path: Path,
    in_this_process: None,
) -> None:
    data = write_photos(tmp_path / "photos", classes=2, each=6, size=16)
    recipe = Recipe(backbone=str(module), phases=())
    run = regraft.train(data, recipe, tmp_path / "run", trust=True)
    x = pixels(16)
    expected = answer(run.model, x)
    np.testing.assert_allclose(answer(regraft.load(run.path).model, x), expected, atol=1e-6)
    assert "trust" not in (run.path / "recipe.toml").read_text()

    trust_module._TRUSTED_HERE.clear()
    shutil.rmtree(another_machine)
    (digest,) = inspect(run.path).savedmodels
    file = run.path / "model.keras"
    for open_it in (
        lambda: regraft.load(run.path).model,
        lambda: load_backbone(file),
        lambda: keras.models.load_model(file),
    ):
        with pytest.raises(ModelRefused, match=f"holds a SavedModel, sha256 {digest},"):
            open_it()
    np.testing.assert_allclose(answer(regraft.load(run.path, trust=True).model, x), expected, atol=1e-6)
    load_backbone(file)
