"""Labels that come as lists: labels in every source, and columns of numbers only where they are numbers."""

import numpy as np
import pandas
import pytest
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.data.raw_targets import read_raw_targets
from regraft.errors import UsageError

TAGS = [["cat", "in"], ["dog"], [], ["cat", "out"], ["dog", "out"], ["cat"]]
PAIRS = [["cat", "in"], ["dog", "out"], ["cat", "out"], ["dog", "in"], ["cat", "in"], ["dog", "out"]]
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return tmp_path


def labels(catalog):
    return [[catalog.outputs[label] for label in sample.target] for sample in catalog.samples]


def read_values(values, column, **options):
    return read_raw_targets([values], [column], **options)


def make_frame(lists):
    return pandas.DataFrame({"file": [f"{number}.png" for number in range(6)], "tags": lists})


@pytest.mark.parametrize(
    "kind", [list, tuple, set, frozenset, np.array, lambda items: np.array(items, object)]
)
@pytest.mark.parametrize("lists", [TAGS, PAIRS])
def test_lists_in_a_data_frame_are_labels(root, kind, lists):
    frame = make_frame([kind(items) for items in lists])
    catalog = Catalog.from_table(frame, image="file", target="tags", root=root)
    assert catalog.task == "multilabel"
    assert labels(catalog) == lists


@pytest.mark.parametrize("lists", [TAGS, PAIRS])
def test_lists_in_parquet_and_in_csv_are_labels(root, lists):
    make_frame(lists).to_parquet(root / "t.parquet")
    make_frame(lists).to_csv(root / "t.csv", index=False)
    for name in ("t.parquet", "t.csv"):
        catalog = Catalog.from_table(root / name, image="file", target="tags")
        assert (catalog.task, labels(catalog)) == ("multilabel", lists)
    separated = Catalog.from_table(root / "t.csv", image="file", target="tags", separator=",")
    assert labels(separated) == lists


@pytest.mark.parametrize("lists", [TAGS, PAIRS])
def test_lists_beside_arrays_and_in_streams_are_labels(lists):
    for targets in (lists, [set(items) for items in lists], pandas.Series(lists)):
        assert labels(Catalog.from_arrays(IMAGES, targets)) == lists
    rows = [{"image": image, "label": tuple(items)} for image, items in zip(IMAGES, lists, strict=True)]
    assert labels(Catalog.from_stream(rows)) == lists
    assert labels(Catalog.from_arrays(IMAGES[:2], np.array(PAIRS[:2]))) == PAIRS[:2]


def test_numbers_of_one_length_are_labels_where_task_or_names_say_so():
    lists = [[0, 2], [1, 3], [2, 3]]
    assert read_values(lists, "tags").task == "regression"
    targets = read_values(lists, "tags", task="multilabel")
    assert (targets.outputs, targets.values) == (("0", "1", "2", "3"), [(0, 2), (1, 3), (2, 3)])
    named = read_values(lists, "tags", names=["a", "b", "c", "d"])
    assert (named.task, named.outputs, named.values) == ("multilabel", ("a", "b", "c", "d"), targets.values)
    sets = read_values([set(items) for items in lists], "tags")
    assert sets.values == targets.values


def test_rows_of_flags_and_of_numbers_stay_columns():
    assert read_values([[0, 1, 0], [1, 0, 0]], "tags").task == "multiclass"
    assert read_values([[1, 1, 0], [0, 0, 0]], "tags", task="multilabel").values == [(0, 1), ()]
    assert read_values([[0.5, 2], [1, 7]], "tags").values == [(0.5, 2.0), (1.0, 7.0)]
    boxes = read_values(np.array([[3, 3], [1, 2]]), "tags", names=["w", "h"])
    assert (boxes.task, boxes.outputs) == ("regression", ("w", "h"))
    missing = read_values([[0.5, 2], None, [1, 7]], "tags")
    assert (missing.values, missing.refused[1][0]) == ([(0.5, 2.0), None, (1.0, 7.0)], "missing_label")
    with pytest.raises(UsageError, match="Expected 3 names"):
        read_values(np.eye(3), "tags", names=["a", "b"])


def test_lists_of_one_label_are_classes_unless_the_task_is_multilabel():
    assert read_values([["cat"], ["dog"], ["cat"]], "tags").values == [0, 1, 0]
    assert read_values([["cat"], ["dog"]], "tags", task="multilabel").values == [(0,), (1,)]
    with pytest.raises(UsageError, match="several labels a sample"):
        read_values(TAGS, "tags", task="multiclass")


def test_lists_among_several_target_columns_are_one_message(root):
    frame = make_frame(PAIRS).assign(size=1.5)
    with pytest.raises(UsageError, match="lists in column tags"):
        Catalog.from_table(frame, image="file", target=["size", "tags"], root=root)


def test_words_for_missing_labels_are_counted_in_a_note():
    targets = read_values([["cat", "None"], ["dog"], ["None"]], "tags")
    assert (targets.outputs, targets.values) == (("cat", "dog"), [(0,), (1,), ()])
    assert targets.notes == (
        "Column tags holds None 2 times, which is read as a missing value. If it is a label, give it another "
        "name, such as no_label.",
    )
    named = read_values([["cat", "None"], ["cat"]], "tags", names=["cat", "None"])
    assert (named.values, named.notes) == ([(0, 1), (0,)], ())
