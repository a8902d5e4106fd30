"""Properties that hold for any input: of the split, of shards, of tables, and of the check of model files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from conftest import small_network
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from hypothesis.strategies import DrawFn, SearchStrategy

from regraft.data.catalog import Catalog, Sample
from regraft.data.split import split
from regraft.data.table_files import DELIMITERS, read_table
from regraft.features.shard import Shard, digests_to_bytes, write_shard
from regraft.model_scan.keras_config import find_oversized_layers, read_config

settings.register_profile("same", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("same")

# --- split


def digest_of(content: int) -> str:
    return hashlib.md5(str(content).encode()).hexdigest()


@st.composite
def catalogs(draw: DrawFn) -> Catalog:
    """Few contents and few groups among many samples, so that copies and groups tie them together."""
    classes = draw(st.integers(2, 4))
    label = st.integers(0, classes - 1)
    task, target = draw(
        st.sampled_from(
            [("multiclass", label), ("multilabel", st.sets(label).map(lambda s: tuple(sorted(s))))]
        )
    )
    row = st.tuples(
        st.integers(0, 60), target, st.sampled_from(["", "train", "test"]), st.sampled_from(["", *"abcdefgh"])
    )
    rows = draw(st.lists(row, min_size=1, max_size=80))
    samples = [
        Sample(f"{number}.png", target, digest_of(content), part, group)
        for number, (content, target, part, group) in enumerate(rows)
    ]
    return Catalog(Path(), tuple("abcd"[:classes]), tuple(samples), task=task)


def ties(sample: Sample) -> set[str]:
    return {sample.digest, *([f"group {sample.group}"] if sample.group else [])}


def units(samples: list[Sample]) -> list[list[Sample]]:
    """The samples that share a digest or a group, directly or through others."""
    joined: list[tuple[set[str], list[Sample]]] = []
    for sample in samples:
        names, members = ties(sample), [sample]
        apart = []
        for other_names, others in joined:
            if other_names & names:
                names, members = names | other_names, others + members
            else:
                apart.append((other_names, others))
        joined = [*apart, (names, members)]
    return [members for _, members in joined]


@given(catalogs(), st.floats(0.01, 0.9), st.integers(0, 5))
def test_split_gives_every_sample_one_part_and_parts_no_unit(
    catalog: Catalog, fraction: float, seed: int
) -> None:
    after = split(catalog, fraction=fraction, seed=seed)
    assert [replace(sample, part="") for sample in after.samples] == [
        replace(sample, part="") for sample in catalog.samples
    ]
    for old, new in zip(catalog.samples, after.samples, strict=True):
        assert new.part == "test" if old.part == "test" else new.part in ("train", "validation")
    for unit in units([sample for sample in after.samples if sample.part != "test"]):
        assert len({sample.part for sample in unit}) == 1
    assert split(catalog, fraction=fraction, seed=seed) == after


@given(
    st.lists(st.integers(0, 2), min_size=2, max_size=80),
    st.integers(1, 79),
    st.floats(0.05, 0.5),
    st.integers(0, 5),
)
def test_split_moves_only_what_stood_in_for_a_class_when_images_are_added(
    labels: list[int], count: int, fraction: float, seed: int
) -> None:
    samples = tuple(Sample(f"{n}.png", label, digest_of(n)) for n, label in enumerate(labels))
    catalog = Catalog(Path(), ("a", "b", "c"), samples)
    before = split(replace(catalog, samples=samples[:count]), fraction=fraction, seed=seed).samples
    after = split(catalog, fraction=fraction, seed=seed).samples
    sides = Counter((sample.target, sample.part) for sample in before)
    moved = [old for old, new in zip(before, after, strict=False) if old.part != new.part]
    for sample in moved:  # the only one of its class on its side, which had been put there for that
        assert sides[sample.target, sample.part] == 1
    assert len({sample.target for sample in moved}) == len(moved)


# --- shards


@st.composite
def shards(draw: DrawFn) -> tuple[list[str], dict[str, np.ndarray]]:
    """Digests and tensors of any type, byte order, shape and memory order, with as many rows as digests."""
    count = draw(st.integers(1, 5))
    tensors = {}
    for name in draw(st.lists(st.text(max_size=5), max_size=3, unique=True)):
        shape = (count, *draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
        tensor = draw(arrays(draw(scalar_dtypes().filter(lambda dtype: dtype.kind not in "mM")), shape))
        tensors[name] = np.asfortranarray(tensor) if draw(st.booleans()) else tensor
    return [digest_of(number) for number in range(count)], tensors


def shard_bytes(digests: list[str], tensors: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    write_shard(file, digests, tensors)
    return file.getvalue()


def open_shard(folder: str, content: bytes) -> Shard:
    path = Path(folder) / "some.shard"
    path.write_bytes(content)
    return Shard(path)


def assert_same(received: np.ndarray, expected: np.ndarray) -> None:
    """The same type, shape and bits; float32 is rounded to eleven significant bits."""
    assert received.dtype == expected.dtype
    assert received.shape == expected.shape
    if expected.dtype != np.float32:
        assert received.tobytes() == expected.tobytes()
        return
    for row, original in zip(
        received.reshape(len(received), -1), expected.reshape(len(expected), -1), strict=True
    ):
        least = 2.0**-28 * np.abs(original).max(initial=0) if np.isfinite(original).all() else 0
        np.testing.assert_allclose(row, original, rtol=2**-11, atol=max(least, 2.0**-126))


@given(shards(), st.data())
def test_shard_returns_what_was_written_in_any_order(
    written: tuple[list[str], dict[str, np.ndarray]], data: st.DataObject
) -> None:
    digests, tensors = written
    order = np.array(data.draw(st.permutations(range(len(digests)))))
    with tempfile.TemporaryDirectory() as folder:
        shard = open_shard(folder, shard_bytes(digests, tensors))
        assert (shard.digests == digests_to_bytes(digests)).all()
        assert shard.are_sound(np.arange(len(digests))).all()
        for name, tensor in tensors.items():
            assert_same(shard.read(name, order), tensor[order])


@given(shards(), st.data())
def test_shard_with_a_flipped_byte_returns_no_other_values(
    written: tuple[list[str], dict[str, np.ndarray]], data: st.DataObject
) -> None:
    digests, tensors = written
    content = bytearray(shard_bytes(digests, tensors))
    from_the_end = data.draw(st.integers(1, 40) | st.integers(1, len(content)))  # rows lie behind the headers
    content[-from_the_end] ^= data.draw(st.integers(1, 255))
    rows = np.arange(len(digests))
    with tempfile.TemporaryDirectory() as folder:
        original = open_shard(folder, shard_bytes(digests, tensors))
        expected = {name: original.read(name, rows) for name in tensors}
        keys = original.digests
        try:
            damaged = open_shard(folder, bytes(content))
        except Exception:
            return  # of any kind, as `Shard` promises
        sound = rows[damaged.are_sound(rows)]
        assert (damaged.digests[sound] == keys[sound]).all()
        for name in tensors if len(sound) else []:
            assert damaged.read(name, sound).tobytes() == expected[name][sound].tobytes()


# --- tables

CELLS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8),
    st.sampled_from(list(DELIMITERS)),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_table_returns_the_cells_that_were_written_with_their_row_numbers(
    rows: list[tuple[str, str, str]], delimiter: str, encoding: str, line_end: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end)
            writer.writerows([("file", "note", "label"), *rows, ("last", "", "row")])
        table = read_table(path, ["label", "file"])
    expected = {
        number: [cell.replace("\r\n", "\n").replace("\r", "\n") for cell in row]
        for number, row in enumerate([*rows, ("last", "", "row")], 2)
        if any(cell.strip() for cell in row)
    }
    assert table.numbers == list(expected)
    for name, index in (("file", 0), ("label", 2)):  # blanks may come before a quotation mark
        cells = [row[index].lstrip(" ") for row in expected.values()]
        assert [cell.lstrip(" ") for cell in table.columns[name]] == cells
    assert not table.refused


# --- the check of model files

KEYS = [
    "module", "class_name", "config", "registered_name", "build_config", "name", "layers", "input_layers",
    "output_layers", "inbound_nodes", "shared_object_id", "shapes_dict", "input_shape", "batch_shape",
    "units", "filters", "kernel_size", "groups", "axis", "equation", "output_shape", "facts",
    "args", "kwargs",
]  # fmt: skip
WORDS = [
    "keras", "keras.layers", "keras.src.models.functional", "Functional", "Sequential", "Dense", "Conv2D",
    "InputLayer", "LSTM", "BatchNormalization", "SavedModelLayer", "__keras_tensor__", "function",
    "__lambda__", "",
]  # fmt: skip
VALUES: SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 10**30)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


def scan(text: bytes) -> list[str]:
    """The reasons to refuse a configuration; nothing else may come of any text."""
    configuration = read_config(text)
    reasons = [*configuration.suspicious, *find_oversized_layers(configuration, 100)]
    assert all(isinstance(reason, str) for reason in reasons)
    return reasons


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode) | VALUES.map(json.dumps).map(str.encode))
def test_any_text_as_configuration_is_refused(text: bytes) -> None:
    assert scan(text)


def positions(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(way for key, item in inner for way in positions(item, (*path, key)))]


@cache
def sound_config() -> tuple[str, dict[str, list[tuple[Any, ...]]]]:
    """A real network's configuration, and the ways to all its values by the last key."""
    text = small_network().to_json()
    ways = defaultdict(list)
    for way in positions(json.loads(text))[1:]:
        ways[str(way[-1])].append(way)
    return text, ways


def test_the_configuration_that_is_changed_below_is_sound() -> None:
    assert not scan(sound_config()[0].encode())


def scan_changed(way: tuple[Any, ...], value: Any) -> None:
    """Scan the configuration with one value replaced."""
    changed = inner = json.loads(sound_config()[0])
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    scan(json.dumps(changed).encode())


def test_every_key_of_a_configuration_may_hold_a_value_of_every_kind() -> None:
    kinds = [None, True, -1, 10**30, 0.5, "", "Dense", [], [[None]], {}, {"class_name": []}]
    for ways in sound_config()[1].values():
        for value in kinds:
            scan_changed(ways[-1], value)


@given(st.data(), VALUES)
def test_any_value_anywhere_in_a_configuration_is_accepted_or_refused(
    data: st.DataObject, value: Any
) -> None:
    ways = sound_config()[1]
    scan_changed(data.draw(st.sampled_from(ways[data.draw(st.sampled_from(sorted(ways)))])), value)
