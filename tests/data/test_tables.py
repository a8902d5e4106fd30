"""The rows of a table: faults are refused by row number, and all other rows are used."""

import time
from dataclasses import replace

import pandas
import pytest
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.errors import DataError, UsageError
from regraft.recipe import Recipe


def picture(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    for number in range(12):
        picture(tmp_path / "images" / f"{number}.png", number)
    return tmp_path


def table(root, *rows, header="file,label", name="labels.csv"):
    path = root / name
    path.write_text("\n".join((header, *rows)) + "\n", "utf-8")
    return path


def good(*numbers, labels=("cat", "dog")):
    return [f"images/{number}.png,{labels[number % len(labels)]}" for number in numbers]


def codes(catalog):
    return [
        (item.image, item.code, int(item.detail.split(":")[0].removeprefix("row ")))
        for item in catalog.refused
    ]


def listed(path, **options):
    return Catalog.from_table(path, **{"image": "file", "target": "label", **options})


def test_rows_are_samples_in_the_table_s_order(root):
    catalog = listed(table(root, *good(3, 0, 2)))
    assert [sample.path for sample in catalog.samples] == ["images/3.png", "images/0.png", "images/2.png"]
    assert [catalog.describe_target(sample) for sample in catalog.samples] == ["dog", "cat", "cat"]
    assert (catalog.task, catalog.root) == ("binary", root)
    assert catalog.why == "Column label holds 2 classes; the positive class is dog"
    folder = Catalog.from_folder(picture(root / "folder" / "a" / "0.png", 0).parents[1])
    assert catalog.samples[1].digest == folder.samples[0].digest


def test_every_fault_of_a_row_is_refused_by_number(root):
    (root / "images" / "broken.png").write_text("<!DOCTYPE html>404")
    (root / "images" / "empty.png").write_bytes(b"")
    faults = [
        ("images/100.png,cat", "missing_file"),
        ("images/broken.png,cat", "not_an_image"),
        ("images/empty.png,dog", "empty"),
        (",cat", "missing_path"),
        ("images/3.png,", "missing_label"),
        ("images/4.png,nan", "missing_label"),
        ("images/5.png,  ", "missing_label"),
        ("https://example.org/1.png,cat", "url_refused"),
        ("file:///etc/passwd,cat", "url_refused"),
        ("images/6.png,cat,7", "malformed_row"),
        (f"{'x' * 300}.png,cat", "missing_file"),
        ("images,cat", "not_a_file"),
    ]
    rows = [f"images/{number}.png,{'cat' if number < 9 else 'dog'}" for number in (0, 1, 2, 7, 8, 9, 10, 11)]
    for number in range(30, 36):
        picture(root / "images" / f"{number}.png", number)
        rows.append(f"images/{number}.png,dog")
    catalog = listed(table(root, *rows, *(row for row, _ in faults)))
    assert len(catalog) == 14
    assert catalog.outputs == ("cat", "dog")
    expected = [
        (
            row.split(",")[0] if code not in ("missing_path", "malformed_row") else f"row {number}",
            code,
            number,
        )
        for number, (row, code) in enumerate(faults, 16)
    ]
    assert codes(catalog) == expected


def test_no_path_leads_out_of_the_folder(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    picture(outside / "secret.png", 99)
    (outside / "back.png").symlink_to(root / "images" / "10.png")
    (root / "images" / "link.png").symlink_to(outside / "secret.png")
    (root / "linked").symlink_to(outside)
    (root / "within.png").symlink_to(root / "images" / "5.png")
    escapes = [
        f"../{outside.name}/secret.png",
        f"{outside}/secret.png",
        f"{outside}/back.png",
        "images/link.png",
        "linked/secret.png",
        f"images/../../{outside.name}/secret.png",
        "../../../../../../../../etc/passwd",
        f"\\\\{outside.name}\\secret.png",
    ]
    within = [
        f"{root}/images/0.png",
        "./images/1.png",
        "images/../images/2.png",
        "images\\3.png",
        "within.png",
    ]
    rows = [f"{path},{label}" for path, label in zip(within, "ababa", strict=True)]
    catalog = listed(table(root, *rows, *good(6, 7, 8, 9), *(f"{path},a" for path in escapes)))
    assert [sample.path for sample in catalog.samples[:5]] == [
        "images/0.png",
        "images/1.png",
        "images/2.png",
        "images/3.png",
        "within.png",
    ]
    assert [(image, code) for image, code, _ in codes(catalog)] == [
        (path, "outside_folder") for path in escapes
    ]


def test_contradictions_are_refused_with_all_their_rows_and_repetitions_left_out(root):
    rows = [*good(0, 1, 2, 3), "./images/0.png,dog", "images/1.png,dog", "images/1.png,dog"]
    catalog = listed(table(root, *rows))
    assert codes(catalog) == [
        ("images/0.png", "conflicting_rows", 2),
        ("images/0.png", "conflicting_rows", 6),
    ]
    assert "rows 2, 6 name this image with different targets" in catalog.refused[0].detail
    assert [sample.path for sample in catalog.samples] == ["images/1.png", "images/2.png", "images/3.png"]
    assert catalog.notes == ("2 rows repeat an earlier one; left out.",)


def test_more_than_half_refused_is_an_error_that_names_the_first(root):
    path = table(root, *good(0, 1), "a.png,cat", "b.png,dog", "c.png,cat")
    with pytest.raises(DataError, match=r"3 of 5 rows of labels\.csv") as caught:
        listed(path)
    assert "a.png: missing_file, row 4: there is no such file" in str(caught.value)
    assert str(root) in str(caught.value)
    assert caught.value.exit_code == 3
    assert len(listed(table(root, *good(0, 1), "a.png,cat", "b.png,dog"))) == 2


def test_whole_numbers_are_one_class_however_they_are_written(root):
    rows = [f"images/{n}.png,{label}" for n, label in enumerate(("1", "1.0", " 1", "2", "2.0", "3", "3"))]
    catalog = listed(table(root, *rows))
    assert catalog.outputs == ("1", "2", "3")
    assert [sample.target for sample in catalog.samples] == [0, 0, 0, 1, 1, 2, 2]


def test_texts_among_numbers_are_refused_and_decimal_commas_read(root):
    rows = [f"images/{n}.png;{value}" for n, value in enumerate(("0,5", "1,25", "blurred", "2", "-0,125"))]
    catalog = listed(table(root, *rows, header="file;label"))
    assert catalog.task == "regression"
    assert catalog.targets(catalog.samples).tolist() == [[0.5], [1.25], [2.0], [-0.125]]
    assert codes(catalog) == [("images/2.png", "not_a_number", 4)]


def test_labels_of_one_cell_and_of_several_columns(root):
    rows = ["images/0.png,red|dress", "images/1.png,", "images/2.png,dress"]
    catalog = listed(table(root, *rows), separator="|")
    assert (catalog.task, catalog.outputs) == ("multilabel", ("dress", "red"))
    assert catalog.targets(catalog.samples).tolist() == [[1, 1], [0, 0], [1, 0]]
    rows = ["images/0.png,1,1", "images/1.png,0,0", "images/2.png,1,0"]
    several = listed(table(root, *rows, header="file,dress,red"), target=("dress", "red"))
    assert several.targets(several.samples).tolist() == [[1, 1], [0, 0], [1, 0]]


def test_several_images_of_a_row_are_one_sample(root):
    rows = [
        "images/0.png,images/1.png,cat",
        "images/2.png,images/3.png,dog",
        "images/4.png,nowhere.png,cat",
        "images/6.png,images/7.png,cat",
    ]
    catalog = listed(table(root, *rows, header="front,back,label"), image=("front", "back"))
    assert [[photo.path for photo in sample.images] for sample in catalog.samples] == [
        ["images/0.png", "images/1.png"],
        ["images/2.png", "images/3.png"],
        ["images/6.png", "images/7.png"],
    ]
    assert len({photo.digest for sample in catalog.samples for photo in sample.images}) == 6
    assert codes(catalog) == [("nowhere.png", "missing_file", 4)]


def test_the_user_s_parts_are_taken(root):
    rows = [
        f"{row},{part}"
        for row, part in zip(good(*range(6)), ("train", "Train", "val", "valid", "test", ""), strict=True)
    ]
    catalog = listed(table(root, *rows, header="file,label,part"), split="part")
    assert [sample.part for sample in catalog.samples] == [
        "train",
        "train",
        "validation",
        "validation",
        "test",
    ]
    assert codes(catalog) == [("images/5.png", "unknown_part", 7)]
    rows = [f"{row},test" for row in good(0, 1)]
    with pytest.raises(DataError, match="no row to train on"):
        listed(table(root, *rows, header="file,label,part"), split="part")


@pytest.mark.parametrize("word", ["holdback", "fold_3", "0", "True", "trian"])
def test_an_unknown_word_in_the_split_column_stops_the_run(root, word):
    rows = [f"{row},{part}" for row, part in zip(good(*range(6)), ["train"] * 5 + [word], strict=True)]
    with pytest.raises(DataError, match=rf"Column part: expected train.*Received also '{word}' \(row 7\)"):
        listed(table(root, *rows, header="file,label,part"), split="part")


def test_parts_in_the_split_column_are_words_as_those_of_folders(root):
    words = ["training_set", "Train set", "dev", "eval", "holdout", "test2017"]
    rows = [f"{row},{part}" for row, part in zip(good(*range(6)), words, strict=True)]
    catalog = listed(table(root, *rows, header="file,label,part"), split="part")
    parts = [sample.part for sample in catalog.samples]
    assert parts == ["train", "train", "validation", "validation", "test", "test"]


def test_groups_are_kept_and_checked(root):
    header = "file,label,part,patient"
    rows = [
        f"{row},train,{patient}" for row, patient in zip(good(0, 1, 2, 3), ("7", "7.0", "8", ""), strict=True)
    ]
    catalog = listed(table(root, *rows, header=header), group="patient")
    assert [sample.group for sample in catalog.samples] == ["7", "7", "8", ""]
    assert catalog.notes == ("1 row has no patient; each is a group by itself.",)
    torn = [*rows, "images/4.png,cat,test,8"]
    with pytest.raises(DataError, match="Groups 8 of column patient lie in more than one part"):
        listed(table(root, *torn, header=header), group="patient", split="part")
    with pytest.raises(DataError, match=r"one group \(7\)"):
        listed(table(root, *rows[:2], header=header), group="patient")


def test_images_may_lie_elsewhere(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("tables")
    path = table(elsewhere, "0.png,cat", "1.png,dog")
    catalog = listed(path, root=root / "images")
    assert (catalog.root, [sample.path for sample in catalog.samples]) == (
        root / "images",
        ["0.png", "1.png"],
    )
    with pytest.raises(UsageError, match="Expected the folder"):
        listed(path, root=root / "nowhere")


def test_a_data_frame_is_a_table(root):
    frame = pandas.DataFrame({"file": [f"images/{n}.png" for n in range(5)], "label": [0.5, 1, None, 2, 2.5]})
    catalog = listed(frame, root=root)
    assert catalog.targets(catalog.samples).tolist() == [[0.5], [1.0], [2.0], [2.5]]
    assert codes(catalog) == [("images/2.png", "missing_label", 4)]


def test_a_separator_with_several_columns_is_a_usage_error(root):
    with pytest.raises(UsageError, match="one target column where a separator"):
        listed(table(root, *good(0)), target=("label", "file"), separator="|")


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_seconds(root):
    for number in range(200):
        image = (root / "images" / f"{number % 12}.png").read_bytes()
        (root / f"{number}.png").write_bytes(image + bytes([number]))  # each of its own
    rows = [f"{number % 200}.png,{number % 100}" for number in range(100_000)]
    path = table(root, *rows)
    begun = time.monotonic()
    catalog = listed(path)
    assert time.monotonic() - begun < 60  # minutes if it were quadratic
    assert len(catalog) == 200


@pytest.mark.parametrize(
    "labels",
    [
        ("screw 3,5 mm", "screw 4,0 mm", "nut"),
        ("1,2-diol", "1,3-diol", "diol"),
        ("1.100,50 EUR", "2.200,75 EUR", "free"),
        ("3,5", "nut", "bolt"),
    ],
)
def test_a_comma_in_a_class_of_a_table_with_semicolons_stays(root, labels):
    rows = [f"images/{n}.png;{labels[n % 3]}" for n in range(12)]
    assert sorted(listed(table(root, *rows, header="file;label")).outputs) == sorted(labels)


def test_commas_in_classes_stay_where_classes_are_asked_for(root):
    rows = [f"images/{n}.png;{('1,5', '2,5')[n % 2]}" for n in range(12)]
    path = table(root, *rows, header="file;label")
    assert listed(path, task="multiclass").outputs == ("1,5", "2,5")
    assert listed(path).task == "regression"


def test_commas_in_labels_stay(root):
    rows = [f"images/{n}.png;{('size 1,5|red', '2,5', 'red')[n % 3]}" for n in range(12)]
    assert listed(table(root, *rows, header="file;label"), separator="|").outputs == (
        "2,5",
        "red",
        "size 1,5",
    )


@pytest.mark.parametrize(
    "bad",
    ["Total,12", "nowhere.png,12.5", "images/broken.png,bird", ",fish", "../x.png,7", "images/1.png,a,b"],
)
@pytest.mark.parametrize("task", ["auto", "binary"])
def test_a_refused_row_has_no_say_in_the_task(root, bad, task):
    (root / "images" / "broken.png").write_text("<!DOCTYPE html>404")
    catalog = listed(table(root, *good(*range(12)), bad), task=task)
    assert (catalog.task, catalog.outputs, len(catalog.refused)) == ("binary", ("cat", "dog"), 1)


def test_refused_rows_do_not_make_numbers_classes(root):
    rows = [f"images/{n}.png,{n / 8}" for n in range(12)]
    totals = [f"total {n}.png,many" for n in range(12)]
    catalog = listed(table(root, *rows, *totals))
    assert (catalog.task, len(catalog)) == ("regression", 12)


def test_a_row_without_a_part_has_no_say_in_the_classes(root):
    rows = [f"{row},train" for row in good(*range(10))]
    catalog = listed(table(root, *rows, "images/11.png,cow,", header="file,label,part"), split="part")
    assert (catalog.task, catalog.outputs) == ("binary", ("cat", "dog"))


@pytest.mark.parametrize("word", ["None", "NA", "null", "nan", "#N/A"])
def test_words_read_as_missing_are_named_with_the_way_to_keep_them(root, word):
    rows = [f"images/{n}.png,{(word, 'crack', 'hole')[n % 3]}" for n in range(12)]
    catalog = listed(table(root, *rows))
    assert catalog.outputs == ("crack", "hole")
    assert len(catalog.refused) == 4
    assert all(f"holds {word}, which is read as a missing value" in item.detail for item in catalog.refused)
    assert catalog.notes == (
        f"Column label holds {word} 4 times, which is read as a missing value. If it is a class, give it "
        "another name, such as no_class.",
    )


@pytest.mark.parametrize("word", ["none", "No", "missing", "Nan's"])
def test_other_words_are_classes(root, word):
    rows = [f"images/{n}.png,{(word, 'crack', 'hole')[n % 3]}" for n in range(12)]
    assert set(listed(table(root, *rows)).outputs) == {word, "crack", "hole"}


def test_missing_numbers_are_refused_without_a_note(root):
    rows = [f"images/{n}.png,{'NA' if n == 3 else n / 7}" for n in range(12)]
    catalog = listed(table(root, *rows))
    assert (catalog.task, catalog.notes) == ("regression", ())
    assert catalog.refused[0].detail == "row 5: Column label holds NA, which is read as a missing value"


@pytest.mark.parametrize("spellings", [("1", "+1", "1e0"), ("0", "-0.0", "-0"), ("100000", "1e5", "1.0E+05")])
def test_one_number_is_one_class_in_any_spelling(root, spellings):
    rows = [f"images/{n}.png,{(*spellings, '7')[n % 4]}" for n in range(12)]
    assert listed(table(root, *rows)).outputs == tuple(sorted((spellings[0], "7")))


def test_flags_in_exponents_are_flags(root):
    rows = [f"images/{n}.png,{n % 2:.18e},{n % 3 == 0:.18e}" for n in range(12)]
    catalog = listed(table(root, *rows, header="file,a,b"), target=("a", "b"))
    assert catalog.task == "multilabel"


def test_a_recipe_names_the_folder_of_the_images_and_columns_with_commas(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("tables")
    path = table(elsewhere, *(f"{n}.png,{n / 7}" for n in range(12)), header='file,"length, m"')
    recipe = Recipe(image=("file",), target=("length, m",), root=str(root / "images"))
    catalog = Catalog.open(path, recipe)
    assert (catalog.root, catalog.outputs, len(catalog)) == (root / "images", ("length, m",), 12)
    with pytest.raises(UsageError, match="Expected the folder that paths are relative to"):
        Catalog.open(path, replace(recipe, root=str(root / "nowhere")))
    with pytest.raises(DataError, match="missing_file"):
        Catalog.open(path, replace(recipe, root=""))


def test_columns_that_divide_the_images_are_read(root):
    path = table(root, "images/0.png,cat,north,3", "images/1.png,dog,,4.0", header="file,label,site,age")
    catalog = listed(path, slice=("site", "age"))
    assert [sample.cells for sample in catalog.samples] == [("north", "3"), ("", "4")]
    assert catalog.source.slice == ("site", "age")
    assert listed(path).samples[0].cells == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sit", 'no column sit. It has: file, label, site. Did you mean "site"?'),
        ("label", "slice: expected columns that divide the images.* Received: label, the target"),
        ("file", "Received: file, the image column"),
    ],
)
def test_a_column_that_cannot_divide_the_images_is_refused(root, name, message):
    path = table(root, "images/0.png,cat,north", header="file,label,site")
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        listed(path, slice=name)


def test_a_folder_has_no_columns_to_divide_its_images_by(root):
    with pytest.raises(UsageError, match="--slice: expected a table"):
        Catalog.open(root, Recipe(slice=("site",)))
