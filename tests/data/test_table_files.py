"""CSV from spreadsheets, Parquet and data frames: the same columns with the same row numbers."""

import csv
import sys

import pandas
import pytest

from regraft.data.table_files import read_table
from regraft.errors import DataError, EnvironmentFault, UsageError

ROWS = [("file", "label"), ("a.png", "größe"), ("b.png", "klein")]
COLUMNS = {"file": ["a.png", "b.png"], "label": ["größe", "klein"]}


def written(tmp_path, text, encoding="utf-8", name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_any_spreadsheet_s_csv_is_read(tmp_path, delimiter, encoding, line_end):
    text = "".join(delimiter.join(row) + line_end for row in ROWS)
    table = read_table(written(tmp_path, text, encoding), ["file", "label"])
    assert table.columns == COLUMNS
    assert table.numbers == [2, 3]
    assert table.folder == tmp_path
    assert table.decimal_comma == (delimiter == ";")


def test_row_numbers_are_a_spreadsheet_s(tmp_path):
    text = 'file,note,label\na.png,"two\nlines, and a ""quote""",1\n\n,,\nb.png,,2\n'
    text += "c.png,2\nd.png,,3,4\ne.png,,5\n"
    table = read_table(written(tmp_path, text), ["label", "file"])
    assert table.columns == {"label": ["1", "2", "5"], "file": ["a.png", "b.png", "e.png"]}
    assert table.numbers == [2, 5, 8]
    assert table.refused == {
        6: "2 cells in it, and 3 in the header",
        7: "4 cells in it, and 3 in the header",
    }


def test_the_delimiter_is_the_one_that_finds_the_columns(tmp_path):
    text = "file;a,b,c,d;label\nx.png;1,2,3,4;cat\n"
    assert read_table(written(tmp_path, text), ["file", "label"]).columns["label"] == ["cat"]


def test_spaces_around_names_do_not_matter(tmp_path):
    assert read_table(written(tmp_path, "file, label\na.png, cat\n"), ["label"]).columns["label"] == ["cat"]


def test_an_unknown_column_names_those_there_are_and_the_nearest(tmp_path):
    path = written(tmp_path, "file,label\na.png,1\n")
    with pytest.raises(UsageError, match=r'no column lable\. It has: file, label\. Did you mean "label"\?'):
        read_table(path, ["file", "lable"])


def test_an_unknown_delimiter_is_recognised(tmp_path):
    path = written(tmp_path, "file|label\na.png|1\n")
    with pytest.raises(UsageError, match="reads as a single column: expected commas or semicolons or tabs"):
        read_table(path, ["image"])


def test_a_column_that_is_there_twice_is_an_error_if_it_is_wanted(tmp_path):
    path = written(tmp_path, "file,label,label,x,x\na.png,1,2,3,4\n")
    with pytest.raises(DataError, match="2 columns called label"):
        read_table(path, ["file", "label"])
    assert read_table(path, ["file"]).columns == {"file": ["a.png"]}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "an empty file"),
        (b" \n", "an empty file"),
        (b"PK\x03\x04\0\0", "binary content"),
        ("file,label\na,b\n".encode("utf-16-le"), "binary content"),
        ("file,label\nä.png,b\n".encode("latin-1"), "neither UTF-8 nor UTF-16"),
        (b"file,label\n", "no rows"),
        (b'file,label\na.png,1\nb.png,"2\nc.png,3\n', "beyond row 2.*quotation mark never closed"),
    ],
)
def test_what_is_no_table_is_one_message(tmp_path, content, why):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=why):
        read_table(path, ["file"])


@pytest.mark.parametrize("name", ["nothing.csv", "."])
def test_no_file_is_a_usage_error(tmp_path, name):
    with pytest.raises(UsageError, match="Expected a table"):
        read_table(tmp_path / name, ["file"])


def test_parquet_has_the_same_columns(tmp_path):
    frame = pandas.DataFrame({"file": ["a.png", "b.png"], "size": [1.5, None], "other": [1, 2]})
    frame.to_parquet(tmp_path / "table.parquet")
    table = read_table(tmp_path / "table.parquet", ["file", "size"])
    assert table.columns["file"] == ["a.png", "b.png"]
    assert table.columns["size"][0] == 1.5
    assert table.numbers == [2, 3]
    (tmp_path / "broken.parquet").write_bytes((tmp_path / "table.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged Parquet"):
        read_table(tmp_path / "broken.parquet", ["file"])


def test_parquet_without_its_package_names_the_command(tmp_path, monkeypatch):
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # so that importing it fails
    with pytest.raises(EnvironmentFault, match=r'pip install "regraft\[parquet\]"'):
        read_table(tmp_path / "table.parquet", ["file"])


def test_data_frames_are_tables():
    frame = pandas.DataFrame({"file": ["a.png", "b.png"], 7: [1, 2]}, index=[40, 50])
    table = read_table(frame, ["file", "7"])
    assert (table.columns, table.numbers) == ({"file": ["a.png", "b.png"], "7": [1, 2]}, [2, 3])
    with pytest.raises(UsageError, match="The table has no column label"):
        read_table(frame, ["label"])
    with pytest.raises(DataError, match="differ in length"):
        read_table({"a": [1], "b": [1, 2]}, ["a", "b"])


@pytest.mark.parametrize(
    "text",
    [
        "file,label\na.png,größe,\nb.png,klein,\n",
        "file,label,\na.png,größe\nb.png,klein\n",
        "file,label,,\na.png,größe,,\nb.png,klein\n",
        "sep=;\nfile;label\na.png;größe\nb.png;klein\n",
        '"sep=|"\nfile|label\na.png|größe\nb.png|klein\n',
        "SEP=\t\nfile\tlabel\na.png\tgröße\nb.png\tklein\n",
        'file, label\na.png, "größe"\n "b.png", "klein"\n',
        'file; "label"\n"a.png"; "größe"\n"b.png"; klein\n',
        'file,label,outline\na.png,größe,"' + "7 " * 100_000 + '"\nb.png,klein,\n',
    ],
)
def test_csv_of_other_programs_is_read(tmp_path, text):
    table = read_table(written(tmp_path, text), ["file", "label"])
    assert (table.columns, table.numbers, table.refused) == (COLUMNS, [2, 3], {})


@pytest.mark.parametrize("blank", ["\n", ",,\n", " \n", "\n;;\n"])
def test_blank_rows_before_the_header_count_as_rows(tmp_path, blank):
    table = read_table(
        written(tmp_path, blank + "file,label\na.png,größe\n ,\nb.png,klein\n"), ["file", "label"]
    )
    first = blank.count("\n") + 2
    assert (table.columns, table.numbers) == (COLUMNS, [first, first + 2])


def test_a_comma_in_a_blank_started_cell_stays_in_it(tmp_path):
    table = read_table(written(tmp_path, 'file,label\na.png, "cat, black"\n'), ["label"])
    assert table.columns == {"label": ["cat, black"]}


def test_a_cell_behind_the_last_column_is_a_fault_of_its_row(tmp_path):
    table = read_table(written(tmp_path, "file,label\na.png,cat,\nb.png,dog,x\nc.png\n"), ["file"])
    assert table.columns == {"file": ["a.png"]}
    assert table.refused == {3: "3 cells in it, and 2 in the header", 4: "1 cells in it, and 2 in the header"}


def test_the_limit_of_other_readers_is_left_as_it_was(tmp_path):
    limit = csv.field_size_limit()
    read_table(written(tmp_path, "file,label\na.png,1\n"), ["file"])
    assert csv.field_size_limit() == limit


def test_blank_lines_alone_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="no column file"):
        read_table(written(tmp_path, ",,,\n;\n"), ["file"])
