"""Model files that nobody should open, made without Keras, and the sound one that each is made from."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

UNITS = 4


def layer(kind, name, config, shape=(None, 8, 8, 3), module="keras.layers", **more):
    return {
        "module": module, "class_name": kind, "registered_name": None, "name": name,
        "config": {"name": name, **config}, "build_config": {"input_shape": list(shape)}, **more,
    }  # fmt: skip


def called_on(entry, source, shape=(None, 8, 8, 3)):
    tensor = {
        "class_name": "__keras_tensor__",
        "config": {"shape": list(shape), "dtype": "float32", "keras_history": [source, 0, 0]},
    }
    return {**entry, "inbound_nodes": [{"args": [tensor], "kwargs": {}}]}


def dense(**change):
    return layer("Dense", "answer", {"units": UNITS, "activation": "softmax", **change}, (None, 192))


def functional(*middle, last=None):
    """A model of Input, whatever is in the middle, Flatten and Dense, each called on the one before it."""
    entries = [
        {
            **layer("InputLayer", "image", {"batch_shape": [None, 8, 8, 3], "dtype": "float32"}),
            "inbound_nodes": [],
        }
    ]
    flat = layer("Flatten", "flat", {})
    for entry in (*middle, flat, last or dense()):
        shape = (None, 192) if entries[-1]["name"] == "flat" else (None, 8, 8, 3)
        entries.append(called_on(entry, entries[-1]["name"], shape))
    return {
        "module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional",
        "config": {
            "name": "model", "trainable": True, "layers": entries,
            "input_layers": [["image", 0, 0]], "output_layers": [["answer", 0, 0]],
        },
    }  # fmt: skip


def weights(change: Callable[[h5py.File], None] = lambda file: None) -> bytes:
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((192, UNITS), np.float32)
        file["layers/dense/vars/1"] = np.zeros(UNITS, np.float32)
        change(file)
    return held.getvalue()


def members(model=None, arrays=None):
    return {
        "metadata.json": json.dumps(
            {"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}
        ).encode(),
        "config.json": json.dumps(model or functional()).encode(),
        "model.weights.h5": arrays or weights(),
    }


def write(path: Path, files, method=zipfile.ZIP_STORED) -> Path:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, data)
    return path


def sound(path: Path) -> Path:
    return write(path, members())


# --- what the configuration can say


def in_the_middle(kind, config, **more):
    return members(functional(layer(kind, "evil", config, **more)))


FUNCTION = {
    "class_name": "function",
    "module": "keras.utils",
    "config": "get_file",
    "registered_name": "get_file",
}
PROGRAM = {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}
CONFIGURATIONS = {
    "lambda": lambda: in_the_middle("Lambda", {"function": PROGRAM}),
    "saved model layer of Keras": lambda: in_the_middle("TFSMLayer", {"filepath": "/tmp/evil"}),
    "torch module": lambda: in_the_middle("TorchModuleWrapper", {"module": "x"}),
    "jax function": lambda: in_the_middle("JaxLayer", {"call_fn": PROGRAM}),
    "custom class": lambda: in_the_middle("Evil", {}, module="evil", registered_name="Custom>Evil"),
    "class of os": lambda: in_the_middle("system", {"command": "id"}, module="os"),
    "another's registered name": lambda: in_the_middle("ReLU", {}, registered_name="keras_hub>Tokenizer"),
    "tokenizer of KerasHub": lambda: in_the_middle(
        "BytePairTokenizer", {"vocabulary": "/etc/passwd"}, module="keras_hub.src.models.vit.vit_layers"
    ),
    "vocabulary from a file": lambda: in_the_middle("StringLookup", {"vocabulary": "/etc/passwd"}),
    "vocabulary from the network": lambda: in_the_middle(
        "TextVectorization", {"vocabulary": "http://127.0.0.1:9/x"}
    ),
    "function that downloads": lambda: in_the_middle("Activation", {"activation": FUNCTION}),
    "function of a package": lambda: in_the_middle(
        "Activation", {"activation": {**FUNCTION, "module": "builtins", "config": "upload_preset"}}
    ),
    "initializer that is a program": lambda: members(functional(last=dense(kernel_initializer=PROGRAM))),
    "type of TensorFlow": lambda: in_the_middle(
        "Rescaling", {"scale": {"class_name": "__typespec__", "spec_name": "x", "module": "os", "config": []}}
    ),
    "lambda within a layer": lambda: in_the_middle(
        "TimeDistributed", {"layer": layer("Lambda", "evil", {"function": PROGRAM})}
    ),
    "no module, as in old files": lambda: in_the_middle("Dense", {"units": 4}, module=None),
    "model of a class of its own": lambda: members({**functional(), "class_name": "Evil", "module": "evil"}),
    "path for the digest of a SavedModel": lambda: in_the_middle(
        "SavedModelLayer",
        {"facts": {"digest": "../../evil", "variables": []}},
        module="regraft.backbones.savedmodel_layer",
        registered_name="regraft>SavedModelLayer",
    ),
    "10^9 units": lambda: members(functional(last=dense(units=10**9))),
    "no shape": lambda: members(functional(last={**dense(), "build_config": None})),
    "shape that is none": lambda: members(
        functional(last={**dense(), "build_config": {"input_shape": "ab"}})
    ),
    "einsum of 10^9": lambda: in_the_middle(
        "EinsumDense", {"equation": "...x,xyz->...yz", "output_shape": [None, 10**5, 10**4]}
    ),
    "convolution of 10^9": lambda: in_the_middle("Conv2D", {"filters": 10**6, "kernel_size": [100, 100]}),
    "attention of 10^9": lambda: in_the_middle(
        "MultiHeadAttention", {"num_heads": 10**4, "key_dim": 10**4, "value_dim": None}
    ),
    "transformer of 10^10": lambda: in_the_middle(
        "ViTEncoderBlock",
        {"hidden_dim": 10**5, "mlp_dim": 10**5},
        module="keras_hub.src.models.vit.vit_layers",
    ),
    "operation on no tensor": lambda: members(operation_on_no_tensor()),
    "8,000 layers": lambda: members(functional(*(layer("ReLU", f"r{n}", {}) for n in range(8_000)))),
    "nested 10^5 deep": lambda: {**members(), "config.json": b"[" * 10**5 + b"]" * 10**5},
    "nested 500 deep": lambda: in_the_middle("Rescaling", {"scale": nested(500)}),
    "configuration of 9 MB": lambda: {**members(), "config.json": b'{"a":[' + b"{}," * 3_000_000 + b"{}]}"},
    "no JSON": lambda: {**members(), "config.json": b"\xff\xfe{"},
}  # fmt: skip


def operation_on_no_tensor():
    model = functional()
    call = {"args": [[1.0]], "kwargs": {}}
    model["config"]["layers"].append(
        {
            **layer("Repeat", "evil", {"repeats": 10**10}, module="keras.src.ops.numpy"),
            "inbound_nodes": [call],
        }
    )
    return model


def nested(depth):
    value = 1
    for _ in range(depth):
        value = {"a": value} if depth % 2 else [value]
    return value


# --- what an archive can be


def linked(path: Path) -> None:
    entry = zipfile.ZipInfo("assets/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    write(path, [*members().items(), (entry, b"/etc/passwd")])


def patched(path: Path, change: Callable[[bytearray, int, int], object]) -> None:
    """A sound file in which bytes are changed: given those, where the configuration begins, and its entry."""
    data = bytearray(sound(path).read_bytes())
    own = data.index(b"PK\x03\x04", 10)
    change(data, own, data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4))
    path.write_bytes(data)


def lying_zip64(path: Path) -> None:
    """The end record is small, and a second one says a list of 10^12 bytes."""
    data = sound(path).read_bytes()
    end, start = data[-22:], len(data) - 22
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**10, 10**10, 10**12, 0)
    path.write_bytes(data[:-22] + record + struct.pack("<4sIQI", b"PK\x06\x07", 0, start, 1) + end)


def flipped(path: Path) -> None:
    data = bytearray(sound(path).read_bytes())
    data[data.index(b"PK\x01\x02") - 5000] ^= 1
    path.write_bytes(data)


def relisted(change: Callable[[bytes], tuple[bytes, int]]) -> Callable[[Path], object]:
    """A sound file with more entries in its list: `change` makes them of the first, and counts."""

    def build(path: Path) -> None:
        data = sound(path).read_bytes()
        first = data.index(b"PK\x01\x02")
        more, count = change(data[first : data.index(b"PK\x01\x02", first + 4)])
        end = bytearray(data[-22:])
        end[8:12] = struct.pack("<HH", count + 3, count + 3)
        end[12:16] = struct.pack("<I", len(data) - 22 - first + len(more))
        path.write_bytes(data[:-22] + more + bytes(end))

    return build


def renamed(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def set_bytes(at: int, value: bytes):
    """Bytes at an offset from the configuration's own header, and from its entry in the list."""

    def change(data: bytearray, own: int, entry: int) -> None:
        data[own + 6 + at : own + 6 + at + len(value)] = value
        data[entry + 8 + at : entry + 8 + at + len(value)] = value

    return change


def own_header_only(data: bytearray, own: int, entry: int) -> None:
    data[own + 18 : own + 26] = struct.pack("<II", 5, 5)


ARCHIVES: dict[str, Callable[[Path], object]] = {
    "member outside": lambda path: write(path, {**members(), "assets/../../x": b"x"}),
    "absolute member": lambda path: write(path, {**members(), "/etc/x": b"x"}),
    "link": linked,
    "two configurations": lambda path: write(path, [*members().items(), ("config.json", b"{}")]),
    "stranger": lambda path: write(path, {**members(), "setup.py": b"x"}),
    "assets of nobody": lambda path: write(path, {**members(), "assets/vocabulary.txt": b"x"}),
    "archive in an archive": lambda path: write(path, {**members(), "assets/a": sound(path).read_bytes()}),
    "60,000 members": relisted(lambda entry: (entry * 60_000, 60_000)),
    "encrypted": lambda path: patched(path, set_bytes(0, b"\x01")),
    "bomb of zeros": lambda path: write(
        path, {**members(), "config.json": bytes(10**7)}, zipfile.ZIP_DEFLATED
    ),
    "compressed weights": lambda path: write(path, members(arrays=bytes(10**5)), zipfile.ZIP_LZMA),
    "zip64 that lies": lying_zip64,
    "header unlike the list": lambda path: patched(path, own_header_only),
    "two members in one place": relisted(lambda entry: (entry.replace(b"metadata", b"assets/x"), 1)),
    "something behind it": lambda path: path.write_bytes(sound(path).read_bytes() + b"#!/bin/sh"),
    "something before it": lambda path: path.write_bytes(b"#!/bin/sh\n" + sound(path).read_bytes()),
    "cut off": lambda path: path.write_bytes(sound(path).read_bytes()[:-300]),
    "one bit flipped": flipped,
    "no weights": lambda path: write(path, {k: v for k, v in members().items() if k != "model.weights.h5"}),
    "pickle": renamed(pickle.dumps({"a": os.getpid})),
    "PyTorch": lambda path: write(path, {"archive/data.pkl": pickle.dumps(1), "archive/version": b"3"}),
    "HDF5": renamed(weights()),
    "gzip": renamed(b"\x1f\x8b\x08" + bytes(100)),
    "text": renamed(b"import os"),
    "empty": renamed(b""),
}


# --- what an HDF5 file can be


def elsewhere(target: Path):
    """Ways to point at another file; it is a pipe without a writer, so whoever opens it waits forever."""

    def external_storage(file):
        space = h5py.h5s.create_simple((4,))
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_external(bytes(target), 0, 16)
        h5py.h5d.create(file.id, b"evil", h5py.h5t.NATIVE_FLOAT, space, settings)

    def virtual(file):
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource(str(target), "x", (4,))
        file.create_virtual_dataset("evil", layout)

    return {
        "external link": lambda file: file.__setitem__("evil", h5py.ExternalLink(str(target), "/x")),
        "soft link": lambda file: file.__setitem__("evil", h5py.SoftLink("/layers/dense")),
        "virtual array": virtual,
        "external storage": external_storage,
    }


def cycle(file):
    file["layers/evil"] = file["layers"]


def nowhere_stored(file):
    file.create_dataset("evil", (10**6, 10**6), "f4", chunks=(100, 100), compression="gzip")


def mostly_zeros(file):
    file.create_dataset("evil", data=np.zeros(10**6, "f4"), compression="gzip")


ARRAYS: dict[str, Callable[[h5py.File], object]] = {
    "array under two names": cycle,
    "array of 4 TB in a kilobyte": nowhere_stored,
    "compressed zeros": mostly_zeros,
    "not a number": lambda file: file.__setitem__("evil", np.array([1, np.nan], np.float32)),
    "infinite": lambda file: file.__setitem__("evil", np.array([1, np.inf], np.float64)),
    "texts": lambda file: file.__setitem__("evil", np.array([b"/etc/passwd"])),
    "references": lambda file: file.create_dataset("evil", data=file.ref, dtype=h5py.ref_dtype),
    "records": lambda file: file.__setitem__("evil", np.zeros(2, [("a", "f4"), ("b", "i4")])),
    "nothing": lambda file: file.__setitem__("evil", h5py.Empty("f4")),
}


def write_all(folder: Path, outside: Path) -> dict[str, Path]:
    """Every hostile file, by what is wrong with it; `outside` is what some of them point at."""
    found = {}
    for number, (name, make) in enumerate(CONFIGURATIONS.items()):
        found[name] = write(folder / f"config{number}.keras", make())
    for number, (name, change) in enumerate({**ARRAYS, **elsewhere(outside)}.items()):
        found[name] = write(folder / f"arrays{number}.keras", members(arrays=weights(change)))
    for number, (name, build) in enumerate(ARCHIVES.items()):
        found[name] = folder / f"archive{number}.keras"
        build(found[name])
    return found
