"""`ImageClassifier` and `ImageRegressor`: fitting, searching and pickling as in scikit-learn."""

from __future__ import annotations

import json
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score

from regraft import (
    DataError,
    EnvironmentFault,
    HeadSpec,
    ImageClassifier,
    ImageEmbedder,
    ImageRegressor,
    Phase,
    UsageError,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """Decode without child processes, which have tests of their own and are slow to start."""


@pytest.fixture
def classifier(network_file: Path, tmp_path: Path) -> ImageClassifier:
    return ImageClassifier(str(network_file), store=tmp_path / "store")


@pytest.fixture
def files(photos: Path) -> list[str]:
    return [str(path) for path in sorted(photos.rglob("*.png"))]


@pytest.fixture
def colours(files: list[str]) -> list[str]:
    return [Path(path).parent.name for path in files]


def shades(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy grey images and the lightness of each."""
    rng = np.random.default_rng(0)
    light = rng.uniform(40, 200, n)
    return np.clip(light[:, None, None, None] + rng.normal(0, 8, (n, 32, 32, 3)), 0, 255), light


def test_classes_come_back_as_they_were_given(
    classifier: ImageClassifier, files: list[str], colours: list[str]
) -> None:
    assert classifier.fit(files, colours) is classifier
    assert classifier.classes_.tolist() == ["blue", "green", "red"]
    assert classifier.score(files, colours) == 1.0
    probabilities = classifier.predict_proba(files)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert (classifier.classes_[probabilities.argmax(axis=1)] == classifier.predict(files)).all()
    numbers = np.array([{"blue": 7, "green": 3, "red": 5}[colour] for colour in colours])
    assert clone(classifier).fit(files, numbers).predict(files).tolist() == numbers.tolist()


def test_the_model_is_a_plain_keras_model_that_answers_the_same(
    classifier: ImageClassifier, colours: list[str], files: list[str]
) -> None:
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(path).resize((32, 32))) for path in files])
    model = classifier.fit(pixels, colours).model_
    assert isinstance(model, keras.Model)
    answers = model.predict(pixels.astype("float32"), verbose=0)
    np.testing.assert_allclose(classifier.predict_proba(pixels), answers, atol=1e-4)
    metrics = json.loads((classifier.run_.path / "metrics.json").read_text())
    assert metrics["task"] == "multiclass"
    assert (classifier.run_.path / "report.html").is_file()


def test_two_classes_have_two_columns_in_the_order_of_the_classes(
    classifier: ImageClassifier, files: list[str], colours: list[str]
) -> None:
    hues = ["none" if colour == "blue" else "it" for colour in colours]  # "none" is no negative class here
    classifier.fit(files, hues)
    assert classifier.classes_.tolist() == ["it", "none"]
    probabilities = classifier.predict_proba(files)
    assert probabilities.shape == (30, 2)
    assert ((probabilities[:, 1] > 0.5) == (np.array(hues) == "none")).all()
    assert classifier.model_.output_shape == (None, 1)


def test_several_labels(classifier: ImageClassifier, files: list[str], colours: list[str]) -> None:
    y = np.array([[name == "red", name != "red", False, name != "green"] for name in colours])
    classifier.fit(files, y.astype(int))
    assert classifier.classes_.tolist() == [0, 1, 2, 3]
    probabilities = classifier.predict_proba(files)
    assert probabilities.shape == (30, 4)
    assert (probabilities[:, 2] == 0).all()  # a label that never occurs
    assert (classifier.predict(files) == y).mean() > 0.95
    assert classifier.score(files, y.astype(int)) > 0.9


def test_numbers_one_or_several(network_file: Path, tmp_path: Path) -> None:
    images, light = shades()
    regressor = ImageRegressor(str(network_file), store=tmp_path / "store").fit(images[:30], light[:30])
    assert regressor.predict(images[30:]).shape == (10,)
    assert regressor.score(images[30:], light[30:]) > 0.9
    both = np.stack([light, 1000 - 3 * light], axis=1)
    pair = clone(regressor).fit(images[:30], both[:30])
    assert pair.predict(images[30:]).shape == (10, 2)
    assert pair.score(images[30:], both[30:]) > 0.9


def test_a_search_computes_the_features_of_each_image_once(
    classifier: ImageClassifier, files: list[str], colours: list[str], seen: list[int]
) -> None:
    grid = GridSearchCV(classifier, {"head": ["logistic", "lda"]}, cv=3).fit(files, colours)
    assert grid.best_score_ == 1.0
    assert cross_val_score(classifier, files, colours, cv=2).mean() == 1.0
    assert grid.predict(files).tolist() == colours
    assert sum(seen) == len(files)


def test_a_solved_head_learns_from_all_images(
    classifier: ImageClassifier, files: list[str], colours: list[str]
) -> None:
    """The head is scikit-learn's on the same features of every image."""
    images, light = shades(20)
    network = {"backbone": classifier.backbone, "store": classifier.store}
    answers = ImageRegressor(**network, head=Ridge(alpha=1.0)).fit(images, light).predict(images)
    features = ImageEmbedder(**network).transform(images).astype("float64")
    np.testing.assert_allclose(answers, Ridge(alpha=1.0).fit(features, light).predict(features), rtol=1e-4)
    rows = (classifier.fit(files, colours).run_.path / "split.csv").read_text().splitlines()[1:]
    assert len(rows) == 30
    assert all(",train," in row for row in rows)


def test_an_estimator_of_scikit_learn_is_a_head_with_settings_to_search(
    classifier: ImageClassifier, files: list[str], colours: list[str]
) -> None:
    forest = RandomForestClassifier(n_estimators=5, random_state=0)
    search = GridSearchCV(classifier.set_params(head=forest), {"head__max_depth": [1, 3]}, cv=2)
    assert search.fit(files, colours).best_score_ > 0.9
    assert not hasattr(forest, "estimators_")  # the argument stays unfitted


@pytest.mark.slow
def test_fine_tuning_and_heads_that_train(
    classifier: ImageClassifier, files: list[str], colours: list[str]
) -> None:
    phase = Phase("all", epochs=2, batch_size=8, learning_rate=1e-2)
    classifier.set_params(unfreeze=[phase], random_state=3).fit(files, colours)
    assert classifier.score(files, colours) > 0.9
    assert ",validation," in (classifier.run_.path / "split.csv").read_text()
    head_alone = Phase("none", epochs=40, batch_size=8, learning_rate=0.05)
    hidden = clone(classifier).set_params(unfreeze=[head_alone], head=HeadSpec(hidden=(8,)))
    assert hidden.fit(files, colours).score(files, colours) > 0.9
    own = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, "softmax")])
    hidden.set_params(head=own).fit(files, colours)
    assert not own.built  # a new copy was trained


def test_a_pickled_estimator_holds_its_files_and_no_keras_object(
    classifier: ImageClassifier, files: list[str], colours: list[str]
) -> None:
    data = pickle.dumps(classifier.fit(files, colours))
    assert b"keras.src" not in data.split(b"PK\x03\x04")[0]
    path = classifier.run_.path
    expected = classifier.predict_proba(files)
    del classifier
    again = pickle.loads(data)
    assert again.run_.path != path
    np.testing.assert_array_equal(again.predict_proba(files), expected)
    assert (again.run_.path / "report.html").is_file()


def test_the_run_folder_is_deleted_with_its_estimator(
    classifier: ImageClassifier, files: list[str], colours: list[str]
) -> None:
    first = classifier.fit(files, colours).run_.path
    second = classifier.fit(files, colours).run_.path
    assert second.is_dir()
    assert not first.exists()


def test_threads_share_an_estimator_and_it_can_be_pickled_after_predicting(
    classifier: ImageClassifier, files: list[str], colours: list[str]
) -> None:
    expected = classifier.fit(files, colours).predict_proba(files)
    fresh = pickle.loads(pickle.dumps(classifier))
    noise = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: fresh.predict_proba(files[number:]), range(6)))
        list(pool.map(lambda image: fresh.predict(image[None]), noise))  # none of which is in the store
    for number, rows in enumerate(answers):
        np.testing.assert_allclose(rows, expected[number:], atol=1e-6)
    assert (pickle.loads(pickle.dumps(fresh)).predict(files) == fresh.predict(files)).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_keeps_the_folder_and_says_that_keras_cannot_compute_there(
    classifier: ImageClassifier, files: list[str], colours: list[str]
) -> None:
    classifier.fit(files, colours)
    for subject in (classifier, pickle.loads(pickle.dumps(classifier))):
        process = os.fork()
        if process == 0:
            os._exit(describe_failure(subject, files))
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == EnvironmentFault.exit_code
    assert classifier.run_.path.is_dir()
    assert classifier.score(files, colours) == 1.0


def describe_failure(classifier: ImageClassifier, files: list[str]) -> int:
    """Return the exit code of a forked process that predicts, and lets go of its estimator."""
    signal.alarm(60)  # a process that hangs is ended
    try:
        classifier.predict(files)
    except EnvironmentFault as error:
        classifier.run_ = None
        return error.exit_code if "spawn" in str(error) else 1
    return 0


def test_an_unfitted_estimator_pickles_its_arguments_only(classifier: ImageClassifier) -> None:
    again = pickle.loads(pickle.dumps(classifier))
    assert again.get_params() == classifier.get_params()
    assert len(pickle.dumps(classifier)) < 1000


def test_out_of_fold_answers_keep_their_rows(
    classifier: ImageClassifier, files: list[str], colours: list[str]
) -> None:
    order = np.random.default_rng(0).permutation(len(files))
    shuffled, names = np.array(files)[order], np.array(colours)[order]
    assert cross_val_predict(classifier, shuffled, names, cv=3).tolist() == names.tolist()


def test_mistakes_are_reported_in_one_sentence(
    classifier: ImageClassifier, files: list[str], photos: Path
) -> None:
    with pytest.raises(UsageError, match=r"at least 2 classes\. Received: 1 class, a"):
        classifier.fit(files, ["a"] * 30)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier.fit(files, ["a", "b"])
    with pytest.raises(ValueError, match="continuous"):
        classifier.fit(files, np.linspace(0, 1, 30))
    with pytest.raises(UsageError, match=r"head\.solver: expected"):
        clone(classifier).set_params(head="forest").fit(files, ["a", "b"] * 15)
    with pytest.raises(UsageError, match="head: expected a solver's name"):
        clone(classifier).set_params(head=7).fit(files, ["a", "b"] * 15)
    (photos / "half.png").write_bytes(Path(files[0]).read_bytes()[:300])
    classifier.fit(files, ["a", "b"] * 15)
    with pytest.raises(DataError, match=r"half\.png: truncated"):
        classifier.predict([*files, photos / "half.png"])
