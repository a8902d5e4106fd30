"""The facts of an image are stored once and come back unchanged."""

from pathlib import Path

import numpy as np
import pytest

from regraft.data.images import decode as decode_module
from regraft.data.images.decode import ImageFacts
from regraft.data.images.decoder_name import DECODER
from regraft.data.images.rejections import NOTES
from regraft.features.image_facts import RECORD, facts_key, facts_to_tensors, read_facts
from regraft.features.store import FORM, Store


def make_facts(count: int) -> dict[str, ImageFacts]:
    """Return facts with every format and note, with all notes at once, and with sizes up to the largest."""
    rng, formats = np.random.default_rng(0), sorted(decode_module.FORMATS)
    facts = {}
    for number in range(count):
        notes = tuple(sorted(note for note in NOTES if number == 1 or rng.random() < 0.4)) if number else ()
        kind = formats[number % len(formats)]
        facts[f"{number:032x}"] = ImageFacts(1 + number, 2**32 - 1 - number, kind, notes, rng.bytes(768))
    return facts


def store_and_read(root: Path, facts: dict[str, ImageFacts], *, shard: int) -> list[ImageFacts]:
    """Store facts, a few at a time, and read them backwards, as another process would."""
    names = list(facts)
    for start in range(0, len(names), shard):
        block = names[start : start + shard]
        Store(root).entries(facts_key(8)).put(block, facts_to_tensors([facts[name] for name in block]))
    return read_facts(Store(root).entries(facts_key(8)), names[::-1])[::-1]


@pytest.mark.parametrize("shard", [7, 40])
def test_facts_come_back_unchanged_from_one_shard_or_several(tmp_path: Path, shard: int) -> None:
    facts = make_facts(40)
    received = store_and_read(tmp_path, facts, shard=shard)
    assert received == list(facts.values())
    assert [image.thumbnail for image in received] == [image.thumbnail for image in facts.values()]
    assert all(type(image.width) is int and type(image.format) is str for image in received)


def test_no_images_have_no_facts(tmp_path: Path) -> None:
    assert read_facts(Store(tmp_path).entries(facts_key(8)), []) == []


def test_an_image_that_was_not_decoded_has_no_facts(tmp_path: Path) -> None:
    store_and_read(tmp_path, make_facts(2), shard=2)
    with pytest.raises(KeyError, match="7"):
        read_facts(Store(tmp_path).entries(facts_key(8)), [f"{7:032x}"])


def test_every_format_fits() -> None:
    assert max(map(len, decode_module.FORMATS)) <= RECORD["format"].itemsize


def test_the_key_names_only_decoder_size_and_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts_key(224).splitlines() == ["facts", DECODER, "size 224", f"notes {' '.join(NOTES)}"]
    before = facts_key(224)
    monkeypatch.setitem(NOTES, "zebra", "show zebras")
    assert len({before, facts_key(224), facts_key(299)}) == 3


def test_thumbnails_take_most_of_the_space(tmp_path: Path) -> None:
    store_and_read(tmp_path, make_facts(200), shard=200)
    (path,) = tmp_path.glob(f"{FORM}/*/*.shard")
    assert path.stat().st_size < 200 * (768 + 60)
