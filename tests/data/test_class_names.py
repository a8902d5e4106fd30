"""Class names that libraries hold, through loaders, subsets and concatenations."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.data.streams import find_class_names

ANIMALS = ("ant", "bee", "cow")


class Folder:
    """A data set of torchvision."""

    def __init__(self) -> None:
        self.classes = list(ANIMALS)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return np.full((3, 8, 6), 20 * number, np.uint8), number % 3


class Names:
    """A feature of Hugging Face."""

    def __init__(self, names: list[str]) -> None:
        self.names = names


class Subset:
    def __init__(self, dataset: Any, indices: Any) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Any:
        return self.dataset[self.indices[number]]


class Loader:
    def __init__(self, dataset: Any) -> None:
        self.dataset, self.batch_size = dataset, 4

    def __iter__(self) -> Any:
        for at in range(0, len(self.dataset), 4):
            rows = [self.dataset[n] for n in range(at, min(at + 4, len(self.dataset)))]
            images, labels = zip(*rows, strict=True)
            yield np.stack(images), np.array(labels)


@pytest.mark.parametrize(
    "source",
    [
        Subset(Folder(), range(9)),
        Loader(Subset(Folder(), range(9))),
        Loader(Subset(Subset(Folder(), range(11)), range(9))),
    ],
)
def test_subsets_and_their_loaders_have_the_names_of_the_data_set(source: Any) -> None:
    assert Catalog.from_stream(source).outputs == ANIMALS


def test_a_subset_without_some_class_has_the_right_names() -> None:
    catalog = Catalog.from_stream(Loader(Subset(Folder(), [1, 2, 4, 5])))
    assert [catalog.describe_target(sample) for sample in catalog.samples] == ["bee", "cow", "bee", "cow"]


@pytest.mark.parametrize("mode", ["categorical", "sparse"])
def test_flow_from_directory(tmp_path: Path, mode: str) -> None:
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    for number, name in enumerate(ANIMALS * 4):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (200, 20 * number, 9)).save(tmp_path / name / f"{number}.png")
    flow = ImageDataGenerator().flow_from_directory(tmp_path, (8, 8), class_mode=mode, batch_size=5)
    catalog = Catalog.from_stream(flow, limit=12)
    assert catalog.outputs == ANIMALS
    assert catalog.count_samples("") == [4, 4, 4]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (SimpleNamespace(class_to_idx={"cow": 2, "ant": 0, "bee": 1}), ANIMALS),
        (SimpleNamespace(classes=np.array(ANIMALS)), ANIMALS),
        (SimpleNamespace(classes=np.array([0, 1, 2]), class_indices={"bee": 1, "ant": 0, "cow": 2}), ANIMALS),
        (SimpleNamespace(datasets=[Folder(), Subset(Folder(), [1])]), ANIMALS),
        (SimpleNamespace(datasets=[Folder(), SimpleNamespace(classes=["x", "y"])]), ()),
        (SimpleNamespace(class_indices={"ant": 1, "bee": 2}), ()),
        (SimpleNamespace(classes=[3, 4]), ()),
        (SimpleNamespace(dataset=SimpleNamespace(features={"label": Names(["a", "b"])})), ("a", "b")),
        (iter(()), ()),
    ],
)  # fmt: skip
def test_names_are_read_where_they_number_the_classes_from_0(source: Any, names: tuple[str, ...]) -> None:
    assert find_class_names(source, "label") == names


def test_a_data_set_that_holds_itself_ends() -> None:
    source = SimpleNamespace()
    source.dataset = source
    assert find_class_names(source, "label") == ()
