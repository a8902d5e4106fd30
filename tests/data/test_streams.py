"""Arrays, data sets and loaders: the same samples from any of them, one image at a time."""

import io
import itertools
import math
import tracemalloc

import keras
import numpy as np
import pytest
from helpers.reporters import Recorder
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.data.images.decode import decode
from regraft.errors import DataError, UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 6, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def pixels(catalog):
    files = (catalog.root / sample.path for sample in catalog.samples)
    return np.stack([decode(file.read_bytes(), None).pixels for file in files])


def test_who_asked_is_shown_how_many_images_are_read():
    seen = Recorder()
    Catalog.from_arrays(IMAGES, LABELS, reporter=seen)
    Catalog.from_stream(zip(IMAGES, LABELS, strict=True), reporter=seen)
    assert seen.progress == [["Reading images", 12]] * 2


def require_all_usable(catalog, outputs=("0", "1", "2")):
    assert (pixels(catalog) == IMAGES).all()
    assert [sample.target for sample in catalog.samples] == LABELS.tolist()
    assert (catalog.task, catalog.outputs) == ("multiclass", outputs)


class Tensor:
    """Stands for a PyTorch tensor, with only the methods by which it is recognised."""

    def __init__(self, values):
        self._values = np.asarray(values)

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self._values

    def __len__(self):
        return len(self._values)


class TorchDataset:
    """A map-style data set: pairs by number, a length, no iterator, no IndexError."""

    classes = ("ant", "bee", "cow")

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, number):
        return Tensor(np.moveaxis(IMAGES[number % 12], 2, 0)), int(LABELS[number % 12])


class TorchLoader:
    """Batches of (images, labels) as tensors, channels first."""

    def __init__(self, dataset, batch_size, sized=True):
        self.dataset = dataset
        self._batch_size = batch_size
        self._sized = sized

    def __len__(self):
        if not self._sized:
            raise TypeError("object of type 'IterableDataset' has no len()")
        return math.ceil(len(self.dataset) / self._batch_size)

    def __iter__(self):
        for at in range(0, len(self.dataset), self._batch_size):
            pairs = [self.dataset[n] for n in range(at, min(at + self._batch_size, len(self.dataset)))]
            images = np.stack([image.numpy() for image, _ in pairs])
            yield [Tensor(images), Tensor([label for _, label in pairs])]


class ClassLabel:
    def __init__(self, names):
        self.names = names


class SequenceOf:
    def __init__(self, feature):
        self.feature = feature


class HuggingFace:
    """Rows that are dictionaries, and features that hold the names of the classes."""

    def __init__(self, rows, features):
        self._rows = rows
        self.features = features

    def __len__(self):
        return len(self._rows)

    def __iter__(self):
        return iter(self._rows)

    def __getitem__(self, number):
        raise AssertionError("a data set that can be iterated is iterated")


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, number):
        chosen = slice(5 * number, 5 * number + 5)
        return IMAGES[chosen], LABELS[chosen]


class Endless(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return None

    def __getitem__(self, number):
        return IMAGES, LABELS


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_arrays_are_samples_in_their_order():
    require_all_usable(Catalog.from_arrays(IMAGES, LABELS))
    require_all_usable(Catalog.from_arrays(IMAGES.astype(np.float32), LABELS.astype(np.float32)))
    require_all_usable(Catalog.from_arrays(IMAGES / 255, LABELS[:, None], scale=255))
    require_all_usable(Catalog.from_arrays(IMAGES, LABELS, names=["z", "y", "x"]), ("z", "y", "x"))
    require_all_usable(Catalog.from_arrays(Tensor(np.moveaxis(IMAGES, 3, 1)).numpy(), Tensor(LABELS)))


def test_lists_of_images_of_different_sizes():
    pictures = [Image.fromarray(IMAGES[0]), IMAGES[1][:4], IMAGES[2][:, :, 0]]
    catalog = Catalog.from_arrays(pictures, ["cat", "dog", "cat"], groups=["a", "b", "a"])
    assert (catalog.task, catalog.outputs) == ("binary", ("cat", "dog"))
    assert [sample.group for sample in catalog.samples] == ["a", "b", "a"]
    sizes = [Image.open(catalog.root / sample.path).size for sample in catalog.samples]
    assert sizes == [(6, 8), (6, 4), (6, 8)]


def test_kinds_of_target_rows_are_distinguished():
    one_hot = np.eye(3)[LABELS]
    found = Catalog.from_arrays(IMAGES, one_hot, names=["ant", "bee", "cow"])
    require_all_usable(found, ("ant", "bee", "cow"))
    assert "exactly one 1 a row" in found.why
    labels = np.random.default_rng(1).integers(0, 2, (12, 4))
    found = Catalog.from_arrays(IMAGES, labels)
    assert found.task == "multilabel"
    assert (found.targets(found.samples) == labels).all()
    numbers = np.random.default_rng(2).normal(size=(12, 2)).astype(np.float32)
    found = Catalog.from_arrays(IMAGES, numbers, names=["width", "height"])
    assert (found.task, found.outputs) == ("regression", ("width", "height"))
    assert (found.targets(found.samples) == numbers).all()
    found = Catalog.from_arrays(IMAGES, numbers[:, 0])
    assert (found.task, found.outputs) == ("regression", ("target",))
    assert found.why == "The target holds 12 distinct numbers"


def test_images_and_targets_that_cannot_be_used_are_refused_by_number():
    images = IMAGES.astype(float)
    images[4, 0, 0, 0] = np.nan
    targets = np.linspace(0.1, 2, 12)
    targets[[4, 7]] = np.nan
    found = Catalog.from_arrays(images, targets)
    assert [(item.image, item.code) for item in found.refused] == [
        ("image 4", "not_finite"),
        ("image 7", "missing_label"),
    ]
    assert len(found) == 10
    images[:7] = np.inf
    with pytest.raises(DataError, match=r"7 of 12 images cannot be used(.|\n)*image 0: not_finite"):
        Catalog.from_arrays(images, LABELS)


@pytest.mark.parametrize(
    ("images", "targets", "options", "why"),
    [
        (IMAGES, LABELS[:5], {}, "as many targets as images. Received: 5 and 12"),
        (IMAGES, LABELS, {"groups": [1, 2]}, "as many groups as images. Received: 2 and 12"),
        (IMAGES, LABELS, {"groups": [1] * 12}, "in one group"),
        (IMAGES, np.eye(3)[LABELS], {"names": ["a"]}, "Expected 3 names"),
        (7, LABELS, {}, "an array or a list of images"),
        (IMAGES / 255, LABELS, {}, "scale=255"),
        (IMAGES / 127.5 - 1, LABELS, {}, "normalises"),
        ([], [], {}, "holds nothing"),
    ],
)
def test_what_cannot_be_arrays_of_images_is_one_message(images, targets, options, why):
    with pytest.raises((DataError, UsageError), match=why):
        Catalog.from_arrays(images, targets, **options)


def test_tf_data_batched_or_not_as_pairs_or_dictionaries():
    import tensorflow

    dataset = tensorflow.data.Dataset.from_tensor_slices((IMAGES, LABELS))
    require_all_usable(Catalog.from_stream(dataset))
    require_all_usable(Catalog.from_stream(dataset.batch(5)))
    grey = tensorflow.data.Dataset.from_tensor_slices((IMAGES[..., 0], LABELS)).batch(5)
    assert (pixels(Catalog.from_stream(grey)) == IMAGES[..., :1]).all()
    rows = dataset.map(lambda image, label: {"image": image, "label": tensorflow.one_hot(label, 3)})
    require_all_usable(Catalog.from_stream(rows.batch(12)))
    files = tensorflow.data.Dataset.from_tensor_slices(([png(image) for image in IMAGES], LABELS))
    require_all_usable(Catalog.from_stream(files))
    require_all_usable(Catalog.from_stream(files.batch(7)))
    with pytest.raises(UsageError, match="no end"):
        Catalog.from_stream(dataset.repeat())
    require_all_usable(Catalog.from_stream(dataset.repeat(), limit=12))


def test_keras_datasets():
    require_all_usable(Catalog.from_stream(Batches()))
    assert len(Catalog.from_stream(Batches(), limit=6)) == 6
    with pytest.raises(UsageError, match="limit="):
        Catalog.from_stream(Endless())
    require_all_usable(Catalog.from_stream(Endless(), limit=12))


@pytest.mark.parametrize("sized", [True, False])
def test_torch_loaders_and_datasets(sized):
    require_all_usable(Catalog.from_stream(TorchDataset()), ("ant", "bee", "cow"))
    require_all_usable(Catalog.from_stream(TorchLoader(TorchDataset(), 5, sized)), ("ant", "bee", "cow"))


def test_hugging_face_rows_decoded_or_not(tmp_path):
    features = {"image": None, "label": ClassLabel(["ant", "bee", "cow"])}
    pairs = [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]
    decoded = [{"image": Image.fromarray(image), "label": label} for image, label in pairs]
    require_all_usable(Catalog.from_stream(HuggingFace(decoded, features)), ("ant", "bee", "cow"))
    packed = [{"image": {"bytes": png(image), "path": "x.png"}, "label": label} for image, label in pairs]
    found = Catalog.from_stream(HuggingFace(packed, features))
    require_all_usable(found, ("ant", "bee", "cow"))
    assert (found.root / found.samples[0].path).read_bytes() == png(IMAGES[0])
    (tmp_path / "0.png").write_bytes(png(IMAGES[0]))
    local = [{"image": {"bytes": None, "path": str(tmp_path / "0.png")}, "label": 0}, *packed[1:]]
    require_all_usable(Catalog.from_stream(HuggingFace(local, features)), ("ant", "bee", "cow"))
    with pytest.raises(UsageError, match=r"no column img\. It has: image, label\."):
        Catalog.from_stream(HuggingFace(decoded, features), columns=("img", "label"))


def test_lists_of_labels_are_labels():
    features = {"labels": SequenceOf(ClassLabel(["sun", "sea", "sand"]))}
    rows = [{"image": IMAGES[0], "labels": [2, 0]}, {"image": IMAGES[1], "labels": []}]
    rows.append({"image": IMAGES[2], "labels": [1]})
    found = Catalog.from_stream(HuggingFace(rows, features), columns=("image", "labels"))
    assert (found.task, found.outputs) == ("multilabel", ("sun", "sea", "sand"))
    assert [sample.target for sample in found.samples] == [(0, 2), (), (1,)]


def test_a_label_that_nobody_knows_is_refused():
    features = {"label": ClassLabel(["ant", "bee", "cow"])}
    rows = [{"image": image, "label": label} for image, label in zip(IMAGES, [*LABELS[:11], -1], strict=True)]
    found = Catalog.from_stream(HuggingFace(rows, features))
    assert [(item.image, item.code) for item in found.refused] == [("image 11", "unknown_class")]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ([(IMAGES[0], 0, 1.0)], "Received: 3 things"),
        ([IMAGES[0]], "Received: ndarray"),
        (7, "Received: int"),
        (iter(()), "holds nothing"),
    ],
)
def test_what_is_no_stream_of_pairs_is_one_message(source, why):
    with pytest.raises((DataError, UsageError), match=why):
        Catalog.from_stream(source)


@pytest.mark.slow
def test_memory_holds_one_image_whatever_the_stream_s_length(tmp_path):
    side, count = 160, 400  # 30 MB of pixels

    def pictures():
        for number in range(count):
            yield np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8), number / 7

    Catalog.from_stream(itertools.islice(pictures(), 2), store=tmp_path)  # what is imported on the way
    tracemalloc.start()
    catalog = Catalog.from_stream(pictures(), store=tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(catalog) == count
    assert peak < 3e6
