"""The model file of an earlier run, into which the weights of another head of the same form are put.

A solved head is one Dense layer behind a backbone that stays as it was. So the files of two such runs on one
backbone differ in two small arrays: the second needs neither Keras nor a backend, and is written in a second.
There is one template a backbone and form of the head, that of its last run; it lies in the store.

    <store>/templates/<digest>/model.keras      as a run wrote it
    <store>/templates/<digest>/features.npy     what its backbone makes of the self-test's pictures, (4, d)
    <store>/templates/<digest>/template.json    the question it answers, its facts, where its head lies
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.backbone.facts import BackboneFacts
from regraft.beside import new_folder, sweep, take_place
from regraft.data.workers import DecodeAhead
from regraft.deploy.answers import OUTPUT
from regraft.deploy.bundle import sha256
from regraft.deploy.graph import deliver
from regraft.deploy.selftest import SELFTEST, keep_answers, pictures
from regraft.errors import ModelRefused
from regraft.features.engine import expect_near, is_whole, kept_graph
from regraft.features.openvino import OpenVinoEngine, join_linear
from regraft.features.store import Store
from regraft.training.linear import LinearHead

if TYPE_CHECKING:
    import keras

__all__ = ["Filled", "Template", "keep_template", "template_there"]

WEIGHTS = "model.weights.h5"  # in a .keras file
FORM = 1  # of these files; one of another form is replaced


@dataclass(frozen=True)
class Template:
    """A template that was found.

    Attributes:
        folder: where it lies.
        graph: the backbone up to its features, as OpenVINO's file.
        facts: of the backbone.
        fingerprint: of the network up to the features.
        names: the tensors that it gives, which the head takes.
        parameters: how many numbers the whole model holds.
        kernel, bias: the names of the head's arrays in the file of weights.
    """

    folder: Path
    graph: Path
    facts: BackboneFacts
    fingerprint: str
    names: tuple[str, ...]
    parameters: int
    kernel: str
    bias: str

    @classmethod
    def find(cls, store: Store, place: str, question: str) -> Template | None:
        """The template that answers a question, whole, with its backbone's graph; or None.

        Args:
            store: where it lies.
            place: names the backbone and the form of the head.
            question: everything that the model file depends on, but the head's arrays.
        """
        folder = _folder(store, place)
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads((folder / "template.json").read_text("utf-8"))
            if told["form"] != FORM or told["question"] != question or told["files"] != _digests(folder):
                return None
            graph = kept_graph(store.folder("engines", told["fingerprint"]))
            if not is_whole(graph.parent):
                return None
            listed = {name: tuple(told["facts"][name]) for name in ("new_layers", "notes")}
            facts = BackboneFacts(**told["facts"] | listed)
            kept = {name: told[name] for name in ("fingerprint", "parameters", "kernel", "bias")}
            return cls(folder, graph, facts, names=tuple(told["names"]), **kept)
        return None


def template_there(store: Store, place: str) -> bool:
    """Whether there is a template of this place, which may answer another question."""
    return (_folder(store, place) / "template.json").is_file()


def keep_template(
    store: Store,
    place: str,
    question: str,
    *,
    model: keras.Model,
    file: Path,
    prefix: keras.Model,
    names: tuple[str, ...],
    facts: BackboneFacts,
    fingerprint: str,
    head: LinearHead,
) -> None:
    """Keep a run's model file for the runs after it. Where that cannot be, they take longer, that is all.

    Args:
        store, place, question: see `Template.find`.
        model: that of the run.
        file: where it was saved.
        prefix: the part of it that makes features, with its fingerprint and their names.
        names, facts, fingerprint: see `Template`.
        head: the arrays that are in it.
    """
    folder = _folder(store, place)
    with suppress(OSError, ValueError):
        kernel, bias = _places(file, head)
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent, ".writing-")
        with new_folder(folder.parent, ".writing-") as beside:
            shutil.copyfile(file, beside / "model.keras")
            np.save(beside / "features.npy", _features(prefix, names))
            told = {
                "form": FORM,
                "question": question,
                "facts": {each.name: getattr(facts, each.name) for each in fields(BackboneFacts)},
                "fingerprint": fingerprint,
                "names": names,
                "parameters": int(model.count_params()),
                "kernel": kernel,
                "bias": bias,
                "files": _digests(beside),
            }
            (beside / "template.json").write_text(json.dumps(told), "utf-8")
            take_place(beside, folder)


def _folder(store: Store, place: str) -> Path:
    return store.folder("templates", hashlib.blake2b(place.encode(), digest_size=16).hexdigest())


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256(folder / name) for name in ("model.keras", "features.npy")}


def _features(prefix: keras.Model, names: tuple[str, ...]) -> NDArray[np.float32]:
    import keras

    shown = pictures(int(prefix.inputs[0].shape[1])).astype(np.float32)
    outputs = prefix(shown, training=False)
    return np.concatenate([keras.ops.convert_to_numpy(outputs[name]) for name in names], 1)


def _places(file: Path, head: LinearHead) -> tuple[str, str]:
    """The names of the arrays that are the head's, found by what they hold.

    Raises:
        ValueError: they are not there once each.
    """
    import h5py  # type: ignore[import-untyped]

    found: dict[str, list[str]] = {"kernel": [], "bias": []}
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(file) as archive:
        weights = h5py.File(archive.extract(WEIGHTS, folder))  # from the archive it takes ten times as long

        def look(name: str, item: Any) -> None:
            for wanted, names in found.items():
                array = getattr(head, wanted)
                same = isinstance(item, h5py.Dataset) and item.shape == array.shape
                if same and name.rpartition("/")[0].endswith("vars") and np.array_equal(item[()], array):
                    names.append(name)

        with weights:
            weights.visititems(look)
    if len(found["kernel"]) != 1:
        raise ValueError(f"the head's kernel is there {len(found['kernel'])} times")
    kernel = found["kernel"][0]
    (bias,) = [name for name in found["bias"] if name.rpartition("/")[0] == kernel.rpartition("/")[0]]
    return kernel, bias


@dataclass(frozen=True)
class Filled:
    """A template with the head of this run; see `outcome.Trained`.

    Attributes:
        template: the template.
        head: the arrays that are put in.
    """

    template: Template
    head: LinearHead

    @property
    def parameters(self) -> int:
        """How many numbers the model holds."""
        return self.template.parameters

    def write(self, folder: Path, some: Callable[[], DecodeAhead] | None) -> dict[str, str]:
        """See `outcome.Trained.write`. The graph is compared on the self-test's pictures, whose features come
        from Keras; the run's photographs are not decoded again."""
        if not all(np.isfinite(array).all() for array in (self.head.kernel, self.head.bias)):
            raise ModelRefused("The model is not written: its head holds numbers that are not finite.")
        self._fill(folder / "model.keras")
        files = {"model.keras": sha256(folder / "model.keras")}
        if some is None:
            return files
        shown = pictures(self.template.facts.image_size)
        expected = self.head.answers([np.load(self.template.folder / "features.npy")])

        def write(target: Path) -> None:
            join_linear(self.template.graph, self.template.names, self.head, target, output=OUTPUT)
            answered = OpenVinoEngine(target, batch=1).run(shown[:, None])
            expect_near(np.concatenate([each[OUTPUT] for each in answered]), expected, "its answers are")

        graph = deliver(folder, write)
        keep_answers(folder / SELFTEST, shown, expected)
        return files | {name: sha256(folder / name) for name in (*graph, SELFTEST)}

    def _fill(self, target: Path) -> None:
        import h5py

        with (
            zipfile.ZipFile(self.template.folder / "model.keras") as source,
            zipfile.ZipFile(target, "w") as made,
        ):
            for name in source.namelist():
                content = source.read(name)
                if name == WEIGHTS:
                    stream = io.BytesIO(content)
                    with h5py.File(stream, "r+") as weights:
                        weights[self.template.kernel][...] = self.head.kernel
                        weights[self.template.bias][...] = self.head.bias
                    content = stream.getvalue()
                made.writestr(name, content)
