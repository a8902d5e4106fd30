"""What the decoder learnt of an image is kept once and comes back as it was."""

from pathlib import Path

import numpy as np
import pytest

from regraft.data.images import decode as decode_module
from regraft.data.images.decode import Facts
from regraft.data.images.decoder_name import DECODER
from regraft.data.images.rejections import NOTES
from regraft.features.image_facts import RECORD, as_tensors, facts_key, read_facts
from regraft.features.store import FORM, Store


def some_facts(count: int) -> dict[str, Facts]:
    """Of as many images: every format and note there is, all notes at once, sizes up to the largest."""
    rng, formats = np.random.default_rng(0), sorted(decode_module.FORMATS)
    facts = {}
    for number in range(count):
        made = (
            () if number == 0 else tuple(sorted(note for note in NOTES if number == 1 or rng.random() < 0.4))
        )
        kind = formats[number % len(formats)]
        facts[f"{number:032x}"] = Facts(1 + number, 2**32 - 1 - number, kind, made, rng.bytes(768))
    return facts


def kept(root: Path, facts: dict[str, Facts], *, shard: int) -> list[Facts]:
    """What another process reads, backwards, of facts that were stored a few at a time."""
    names = list(facts)
    for at in range(0, len(names), shard):
        some = names[at : at + shard]
        Store(root).entries(facts_key(8)).put(some, as_tensors([facts[name] for name in some]))
    return read_facts(Store(root).entries(facts_key(8)), names[::-1])[::-1]


@pytest.mark.parametrize("shard", [7, 40])
def test_facts_come_back_as_they_were_whatever_they_are_stored_with(tmp_path: Path, shard: int) -> None:
    facts = some_facts(40)
    found = kept(tmp_path, facts, shard=shard)
    assert found == list(facts.values())
    assert [each.thumbnail for each in found] == [each.thumbnail for each in facts.values()]
    assert all(type(each.width) is int and type(each.format) is str for each in found)


def test_no_image_asked_for_is_no_facts(tmp_path: Path) -> None:
    assert read_facts(Store(tmp_path).entries(facts_key(8)), []) == []


def test_an_image_that_nobody_decoded_has_none(tmp_path: Path) -> None:
    kept(tmp_path, some_facts(2), shard=2)
    with pytest.raises(KeyError, match="7"):
        read_facts(Store(tmp_path).entries(facts_key(8)), [f"{7:032x}"])


def test_every_format_fits() -> None:
    assert max(map(len, decode_module.FORMATS)) <= RECORD["format"].itemsize


def test_the_key_is_of_decoder_size_and_notes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert facts_key(224).splitlines() == ["facts", DECODER, "size 224", f"notes {' '.join(NOTES)}"]
    before = facts_key(224)
    monkeypatch.setitem(NOTES, "zebra", "show zebras")
    assert len({before, facts_key(224), facts_key(299)}) == 3


def test_a_thumbnail_takes_most_of_what_is_stored(tmp_path: Path) -> None:
    kept(tmp_path, some_facts(200), shard=200)
    (path,) = tmp_path.glob(f"{FORM}/*/*.shard")
    assert path.stat().st_size < 200 * (768 + 60)
