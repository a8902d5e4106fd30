"""The catalog of a folder: which files are images of which class, and notes about the others."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_photos
from helpers.images import without_heif
from helpers.reporters import Recorder
from PIL import Image

from regraft.data import samples
from regraft.data.catalog import Catalog, RejectedFile, Sample
from regraft.data.folders import list_images
from regraft.errors import DataError, EnvironmentFault, UsageError
from regraft.system.console import SILENT

LAYOUT = "photos/cat/1.jpg"


def picture(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number % 256, number // 256, len(path.parent.name))).save(path, "PNG")
    return path


def two_classes(root, each=2):
    for number in range(each):
        picture(root / "cat" / f"{number}.png", number)
        picture(root / "wolf" / f"{number}.png", number)
    return root


def codes(catalog):
    return {item.image: item.code for item in catalog.refused}


def test_folders_are_classes_sorted_by_name(photos):
    catalog = Catalog.from_folder(photos)
    assert catalog.outputs == ("blue", "green", "red")
    assert len(catalog) == 30
    assert catalog.refused == catalog.notes == ()
    assert [sample.path for sample in catalog.samples] == sorted(sample.path for sample in catalog.samples)
    assert all(sample.path.startswith(catalog.outputs[sample.target]) for sample in catalog.samples)
    assert {sample.part for sample in catalog.samples} == {""}


@pytest.mark.parametrize("name", ["validation", "val", "valid", "Val"])
def test_folders_called_train_validation_and_test_are_parts(tmp_path, name):
    for folder, each in (("train", 4), (name, 2), ("test", 3)):
        write_photos(tmp_path / folder, classes=2, each=each)
    catalog = Catalog.from_folder(tmp_path)
    assert catalog.outputs == ("blue", "green")
    assert {part: catalog.count_samples(part) for part in ("train", "validation", "test")} == {
        "train": [4, 4],
        "validation": [2, 2],
        "test": [3, 3],
    }


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train", "tram"):
        picture(tmp_path / name / "1.png")
    assert Catalog.from_folder(tmp_path).outputs == ("bus", "train", "tram")


def test_a_stranger_beside_the_parts_is_not_taken_for_a_class(tmp_path):
    for folder in ("train", "val"):
        two_classes(tmp_path / folder)
    picture(tmp_path / "unlabelled" / "1.png")
    with pytest.raises(DataError, match="unlabelled") as caught:
        Catalog.from_folder(tmp_path)
    assert LAYOUT in str(caught.value)


def test_two_folders_for_one_part_are_an_error(tmp_path):
    for folder in ("train", "val", "validation"):
        two_classes(tmp_path / folder)
    with pytest.raises(DataError, match="both mean 'validation'"):
        Catalog.from_folder(tmp_path)


def test_junk_of_operating_systems_is_neither_class_nor_image(tmp_path):
    root = two_classes(tmp_path)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", ".hidden.png"):
        (root / "cat" / name).write_bytes(b"\0junk")
        (root / name).write_bytes(b"\0junk")
    for folder in ("__MACOSX", ".ipynb_checkpoints", ".git"):
        picture(root / folder / "0.png")
        picture(root / "cat" / folder / "0.png")
    catalog = Catalog.from_folder(root)
    assert catalog.outputs == ("cat", "wolf")
    assert len(catalog) == 4
    assert catalog.refused == ()
    # 5 files in the class and 5 beside it, 3 folders in it and 3 beside it
    assert catalog.notes == ("16 hidden or system files or folders, such as .DS_Store, were left out.",)


def test_images_are_known_by_content_whatever_their_extension(tmp_path):
    root = two_classes(tmp_path)
    for number, name in enumerate(["A.PNG", "b.JPG", "c", "d.dat", "e.jfif"], 10):
        picture(root / "cat" / name, number)
    catalog = Catalog.from_folder(root)
    assert len(catalog) == 9
    assert catalog.refused == catalog.notes == ()


def test_texts_beside_images_are_ignored_and_counted(tmp_path):
    root = two_classes(tmp_path)
    (root / "cat" / "notes.txt").write_text("a tabby")
    (root / "cat" / "empty.txt").write_text("")
    (root / "wolf" / "labels.csv").write_text("a,b\n")
    (root / "wolf" / "BMW.md").write_text("BMW")
    catalog = Catalog.from_folder(root)
    assert catalog.refused == ()
    assert catalog.notes == ("Ignored files, not images that regraft reads: 1 .csv, 1 .md, 2 .txt.",)


@without_heif
def test_what_was_meant_as_an_image_and_is_none_is_refused_by_name(tmp_path):
    root = two_classes(tmp_path)
    (root / "cat" / "a.jpg").write_text("<!DOCTYPE html><p>404")
    (root / "cat" / "b.jpg").write_bytes(b"")
    (root / "cat" / "c.svg").write_text("<svg/>")
    (root / "cat" / "d.pdf").write_bytes(b"%PDF-1.4\n")
    (root / "cat" / "e.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0")
    (root / "cat" / "f.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (root / "cat" / "g").write_text("what is this?")
    (root / "cat" / "h.png").symlink_to(root / "nowhere.png")
    assert codes(Catalog.from_folder(root)) == {
        "cat/a.jpg": "not_an_image",
        "cat/b.jpg": "empty",
        "cat/c.svg": "unsupported_format",
        "cat/d.pdf": "unsupported_format",
        "cat/e.mp4": "unsupported_format",
        "cat/f.heic": "needs_plugin",
        "cat/g": "not_an_image",
        "cat/h.png": "unreadable",
    }


def test_a_file_beyond_the_limit_is_refused_unread_and_a_large_text_ignored(tmp_path):
    root = two_classes(tmp_path)
    os.truncate(picture(root / "cat" / "large.png"), samples.MAX_FILE_BYTES + 1)  # takes no room on disk
    (root / "cat" / "large.csv").write_text("1,2\n" * 1000)
    catalog = Catalog.from_folder(root)
    assert codes(catalog) == {"cat/large.png": "file_too_large"}
    assert catalog.notes == ("Ignored files, not images that regraft reads: 1 .csv.",)


def test_a_pipe_is_never_opened(tmp_path):
    root = two_classes(tmp_path)
    os.mkfifo(root / "cat" / "pipe.jpg")
    done = []
    thread = threading.Thread(target=lambda: done.append(Catalog.from_folder(root)), daemon=True)
    thread.start()
    thread.join(5)
    with os.fdopen(os.open(root / "cat" / "pipe.jpg", os.O_RDWR | os.O_NONBLOCK)):
        pass  # lets go whoever waits for the pipe
    assert done, "the catalog waits for the pipe"
    assert codes(done[0]) == {"cat/pipe.jpg": "not_a_file"}


def test_links_to_folders_are_not_followed_but_noted(tmp_path):
    root = two_classes(tmp_path / "photos")
    outside = two_classes(tmp_path / "outside")
    (root / "linked").symlink_to(outside / "cat")
    (root / "cat" / "deeper").symlink_to(root)  # a loop
    catalog = Catalog.from_folder(root)
    assert len(catalog) == 4
    assert catalog.outputs == ("cat", "wolf")
    assert set(catalog.notes) == {
        f"The folder {name} is a symbolic link and was not followed." for name in ("linked", "deeper")
    }


def test_links_that_lead_nowhere_or_to_each_other_are_named(tmp_path):
    root = two_classes(tmp_path / "photos")
    (root / "cat" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (root / "cat" / "self.png").symlink_to("self.png")
    (root / "bear").symlink_to(tmp_path / "nowhere")
    for one, other in (("a", "b.png"), ("b.png", "a")):
        (root / one).symlink_to(root / other)
    catalog = Catalog.from_folder(root)
    assert len(catalog) == 4
    assert {item.image: item.code for item in catalog.refused} == {
        "cat/broken.png": "unreadable",
        "cat/self.png": "unreadable",
    }
    assert catalog.refused[0].detail == "a link that leads nowhere"
    assert list(catalog.notes) == [
        f"The link {name} leads nowhere and was left out." for name in ("a", "b.png", "bear")
    ]


def test_names_of_255_bytes_are_used_and_paths_beyond_4096_are_named(tmp_path):
    root = two_classes(tmp_path / "photos")
    long = "n" * 251 + ".png"
    picture(root / "cat" / long, 50)
    here = os.open(root / "wolf", os.O_RDONLY)
    for _ in range(20):  # no path leads there in one go
        os.mkdir("d" * 240, dir_fd=here)
        inside = os.open("d" * 240, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inside
    os.close(os.open("deep.png", os.O_CREAT, dir_fd=here))
    os.close(here)
    catalog = Catalog.from_folder(root)
    assert len(catalog) == 5
    assert f"cat/{long}" in [sample.path for sample in catalog.samples]
    (said,) = catalog.notes
    assert re.fullmatch(r"The folder /.{40,320} cannot be read: File name too long\.", said)


def test_a_link_to_an_image_is_that_image(tmp_path):
    root = two_classes(tmp_path / "photos")
    elsewhere = (root / "wolf" / "0.png").rename(tmp_path / "elsewhere.png")
    (root / "wolf" / "link.png").symlink_to(elsewhere)
    assert [sample.path for sample in Catalog.from_folder(root).samples][-1] == "wolf/link.png"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    root = two_classes(tmp_path)
    (root / "cat" / "0.png").chmod(0)
    assert codes(Catalog.from_folder(root)) == {"cat/0.png": "unreadable"}


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux has a file that cannot be read")
def test_a_file_that_cannot_be_read_is_refused_and_the_others_used(tmp_path):
    root = two_classes(tmp_path)
    (root / "cat" / "0.png").unlink()
    (root / "cat" / "0.png").symlink_to("/proc/self/mem")  # nothing is mapped at its start
    catalog = Catalog.from_folder(root)
    assert len(catalog) == 3
    assert catalog.refused[0] == RejectedFile("cat/0.png", "unreadable", "Input/output error")


@pytest.fixture
def locked_folder():
    """A folder that this process may not list: root, whom no permission stops, is another user meanwhile."""
    folder, user = Path(tempfile.mkdtemp()), os.geteuid()
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.rmdir()


def test_a_folder_that_cannot_be_listed_is_a_fault_of_the_environment(locked_folder):
    with pytest.raises(EnvironmentFault, match="Permission denied") as caught:
        Catalog.from_folder(locked_folder)
    assert caught.value.exit_code == 4


def test_an_empty_class_folder_is_left_out_and_noted(tmp_path):
    root = two_classes(tmp_path)
    (root / "zebra").mkdir()
    catalog = Catalog.from_folder(root)
    assert catalog.outputs == ("cat", "wolf")
    assert catalog.notes == ("The class folder zebra is empty and was left out.",)


def test_folders_within_a_class_belong_to_it(tmp_path):
    root = two_classes(tmp_path)
    picture(root / "cat" / "kittens" / "2020" / "1.png", 50)
    catalog = Catalog.from_folder(root)
    assert [catalog.outputs[s.target] for s in catalog.samples if "kittens" in s.path] == ["cat"]


HOSTILE = ["a\nb", "<script>alert(1)", 'it\'s "quoted"', "-rf", "a b", "e\u0301", "\u202egnp"]


@pytest.mark.parametrize("name", [*HOSTILE, os.fsdecode(b"\xff\xfe")])
def test_names_may_be_anything(tmp_path, name):
    root = two_classes(tmp_path)
    picture(root / name / "1.png", 7)
    picture(root / "cat" / f"{name}.png", 8)
    catalog = Catalog.from_folder(root)
    assert unicodedata.normalize("NFC", name) in catalog.outputs
    assert f"cat/{name}.png" in {sample.path for sample in catalog.samples}
    assert all((catalog.root / sample.path).is_file() for sample in catalog.samples)
    assert len(catalog.digest) == 32


def test_numbers_as_names_stay_texts(tmp_path):
    for name in ("007", "7", "nan", "True"):
        picture(tmp_path / name / "1.png")
    assert Catalog.from_folder(tmp_path).outputs == ("007", "7", "True", "nan")


def test_the_digest_depends_on_contents_and_classes_only(tmp_path):
    first = Catalog.from_folder(two_classes(tmp_path / "a"))
    moved = shutil.copytree(tmp_path / "a", tmp_path / "elsewhere")
    (moved / "cat" / "0.png").rename(moved / "cat" / "renamed.png")
    assert Catalog.from_folder(moved).digest == first.digest
    (moved / "cat" / "renamed.png").rename(moved / "wolf" / "renamed.png")
    other_class = Catalog.from_folder(moved).digest
    picture(moved / "wolf" / "renamed.png", 99)
    assert len({first.digest, other_class, Catalog.from_folder(moved).digest}) == 3


def test_a_folder_without_anything_shows_the_layout_expected(tmp_path):
    with pytest.raises(DataError, match="No class folders") as caught:
        Catalog.from_folder(tmp_path)
    assert LAYOUT in str(caught.value)
    assert caught.value.exit_code == 3


def test_class_folders_without_images_show_the_layout_and_the_first_refusal(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").write_text("text")
    with pytest.raises(DataError, match=r"No images.*cat/1\.jpg \(not_an_image, looks like text\)") as caught:
        Catalog.from_folder(tmp_path)
    assert LAYOUT in str(caught.value)


def test_images_at_the_root_are_counted_in_the_message(tmp_path):
    for number in range(3):
        picture(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match="3 images lie outside any class folder") as caught:
        Catalog.from_folder(tmp_path)
    assert LAYOUT in str(caught.value)


def test_images_beside_class_folders_are_noted(tmp_path):
    root = two_classes(tmp_path)
    picture(root / "stray.png")
    assert Catalog.from_folder(root).notes == ("1 image lies outside any class folder, and was left out.",)


@pytest.mark.parametrize("name", ["nothing", "file.txt"])
def test_what_is_no_folder_is_a_usage_error(tmp_path, name):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(UsageError, match=name) as caught:
        Catalog.from_folder(tmp_path / name)
    assert caught.value.exit_code == 2


def test_one_class_is_nothing_to_learn(tmp_path):
    picture(tmp_path / "cat" / "1.png")
    with pytest.raises(DataError, match=r"at least 2 classes.*1 \(cat\)") as caught:
        Catalog.from_folder(tmp_path).require_learnable()
    assert LAYOUT in str(caught.value)


def test_a_class_of_refused_images_is_left_out_of_what_is_learnt(tmp_path):
    root = two_classes(tmp_path)
    (root / "ape").mkdir()
    (root / "ape" / "1.jpg").write_text("text")
    catalog = Catalog.from_folder(root).require_learnable()
    assert catalog.outputs == ("cat", "wolf")
    assert {catalog.outputs[s.target] for s in catalog.samples if s.path.startswith("wolf")} == {"wolf"}
    assert "The class ape has no usable image and was left out." in catalog.notes


def test_a_class_that_only_validation_has_is_an_error(tmp_path):
    two_classes(tmp_path / "train")
    two_classes(tmp_path / "val")
    picture(tmp_path / "val" / "ape" / "1.png", 7)
    with pytest.raises(DataError, match="without a training image: ape"):
        Catalog.from_folder(tmp_path).require_learnable()


def test_refused_images_leave_the_catalog_and_join_the_list(tmp_path):
    catalog = Catalog.from_folder(two_classes(tmp_path))
    less = catalog.exclude([RejectedFile("cat/1.png", "truncated", "")])
    assert [sample.path for sample in less.samples] == ["cat/0.png", "wolf/0.png", "wolf/1.png"]
    assert codes(less) == {"cat/1.png": "truncated"}
    with pytest.raises(DataError, match="No images"):
        catalog.exclude([RejectedFile(sample.path, "corrupt", "") for sample in catalog.samples])


def test_listing_for_prediction_gives_images_below_a_folder_and_a_file_itself(tmp_path):
    root = two_classes(tmp_path)
    (root / "cat" / "notes.txt").write_text("a")
    (root / "cat" / ".hidden.png").write_text("a")
    names = [path.relative_to(root).as_posix() for path in list_images(root, reporter=SILENT)]
    assert names == ["cat/0.png", "cat/1.png", "wolf/0.png", "wolf/1.png"]
    assert list_images(root / "cat" / "notes.txt", reporter=SILENT) == [root / "cat" / "notes.txt"]


def labelled(*targets, task="multilabel", outputs=("a", "b", "c"), parts=None):
    parts = parts or [""] * len(targets)
    samples = tuple(
        Sample(f"{n}.png", target, f"{n:032x}", part)
        for n, (target, part) in enumerate(zip(targets, parts, strict=True))
    )
    return Catalog(Path(), outputs, samples, task=task)


def test_a_label_that_only_test_has_is_an_error(tmp_path):
    with pytest.raises(DataError, match="Labels without a training image: c"):
        labelled((0,), (0, 1), (1, 2), parts=["train", "train", "test"]).require_learnable()


def test_a_label_that_no_image_has_is_left_out():
    left = labelled((0, 2), (), (2,)).require_learnable()
    assert left.outputs == ("a", "c")
    assert [sample.target for sample in left.samples] == [(0, 1), (), (1,)]
    assert left.notes == ("The label b has no usable image and was left out.",)


def test_a_regression_of_one_number_is_nothing_to_learn():
    found = labelled((1.0, 2.0), (1.5, 2.0), (1.0, 3.0), task="regression", outputs=("x", "y"))
    assert found.require_learnable() is found
    constant = replace(found, samples=found.samples[:2])
    with pytest.raises(DataError, match=r"different numbers of y to learn from\. Received: 2 in every"):
        constant.require_learnable()
    with pytest.raises(DataError, match="numbers of y"):
        replace(
            found, samples=(*constant.samples, replace(found.samples[2], part="test"))
        ).require_learnable()


def test_two_folders_are_a_binary_task_and_more_are_classes(tmp_path):
    two = Catalog.from_folder(two_classes(tmp_path)).as_task("auto")
    assert (two.task, two.outputs, two.why) == (
        "binary",
        ("cat", "wolf"),
        "2 classes; the positive class is wolf",
    )
    picture(tmp_path / "ape" / "0.png")
    assert Catalog.from_folder(tmp_path).as_task("auto").task == "multiclass"
    with pytest.raises(UsageError, match="cannot be binary"):
        Catalog.from_folder(tmp_path).as_task("binary")


def test_the_class_that_means_no_comes_first_with_its_images(tmp_path):
    picture(tmp_path / "defect" / "0.png")
    picture(tmp_path / "ok" / "0.png", 1)
    found = Catalog.from_folder(tmp_path).as_task("auto")
    assert found.outputs == ("ok", "defect")
    assert {sample.path: found.describe_target(sample) for sample in found.samples} == {
        "defect/0.png": "defect",
        "ok/0.png": "ok",
    }


def test_folders_named_by_numbers_can_be_a_regression(tmp_path):
    for age in ("20", "3.5"):
        picture(tmp_path / age / "0.png")
    found = Catalog.from_folder(tmp_path).as_task("regression")
    assert sorted(found.targets(found.samples).tolist()) == [[3.5], [20.0]]
    with pytest.raises(UsageError, match="cannot be multiclass"):
        found.as_task("multiclass")


def test_progress_is_shown_where_there_are_many_files(tmp_path, monkeypatch):
    folder = two_classes(tmp_path / "photos")
    (tmp_path / "photos.csv").write_text(
        "image,label\n"
        + "".join(f"photos/{kind}/{n}.png,{kind}\n" for kind in ("cat", "wolf") for n in (0, 1))
    )

    def listed():
        seen = Recorder()
        Catalog.from_folder(folder, reporter=seen)
        Catalog.from_table(tmp_path / "photos.csv", image="image", target="label", reporter=seen)
        return seen.progress

    assert listed() == []
    monkeypatch.setattr(samples, "MANY_FILES", 4)
    assert listed() == [["Listing", 4], ["Listing", 4]]


LIST = """
import resource, sys
from regraft.data.catalog import Catalog
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
catalog = Catalog.from_folder(sys.argv[1])
print(len(catalog), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.soak)])
def test_listing_takes_a_kilobyte_or_two_a_file(tmp_path, count):
    """The bytes of the files, 20 KB each, are not kept."""
    image = picture(tmp_path / "one.png").read_bytes()
    for number in range(count):
        path = tmp_path / "photos" / f"class{number % 10}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image + number.to_bytes(4) + bytes(20_000))
    done = subprocess.run(
        [sys.executable, "-c", LIST, tmp_path / "photos"], capture_output=True, text=True, check=True
    )
    listed, kilobytes = map(int, done.stdout.split())
    assert listed == count
    assert kilobytes < 8_000 + 2 * count, f"{kilobytes:,} KB"
    assert ("Listing: " in done.stderr) == (count > samples.MANY_FILES)
