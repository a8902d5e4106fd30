"""The page of the benchmarks shows measurements and targets; results are kept while they are valid."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
STARTUP = """\
an empty Python                      0.02 s (0.01 to 0.03)     processor   0.02 s
regraft predict, one image      1.21 s (1.10 to 1.40)     processor   1.15 s
predict, step by step:
0.300 the command line
0.410 digests, reading and compiling the graph
train, stage by stage: list 0.20, head 1.50
imports of predict, 0.60 s: numpy 0.10, openvino 0.20
"""
FINETUNE = """\
stage conv5: before 5.2 s, loss 1.23450 and 1.23400
stage conv5: before 5.1 s, loss 1.23450 and 1.23500
stage conv5: regraft 4.0 s (3.9 to 4.2), Keras 10.0 s (9.0 to 11.0) an epoch of 256 images: 2.50 times faster
"""
TAPS = """\
last  top-1 0.875 of 1,000 held-out images (+0.000)
late  top-1 0.880 of 1,000 held-out images (+0.005)
auto  top-1 0.887 of 1,000 held-out images (+0.012)
auto  5.20 ms of processor time an image (+3.1%)
"""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules that benchmarks share, which are in no package."""
    names = ("rows", "page", "printed", "machine", "bench")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield SimpleNamespace(**{name: __import__(name) for name in names})
    for name in names:
        sys.modules.pop(name)


def make_result(here, sheet, **changes):
    """Return a result as `bench.py` keeps it."""
    facts = {
        "benchmark": "solvers",
        "script": "solvers.py",
        "options": "--rounds 3",
        "quick": False,
        "commit": "abc1234",
        "machine": {"processor": "one"},
        "versions": {"keras": "3"},
        "date": "2026-01-02 03:04 UTC",
        "took": 90.0,
        "load": {"before": 0.1, "others": 0.02},
        "text": "",
    }
    return json.loads(json.dumps({**facts, "sheet": asdict(sheet), **changes}))


def page(here, *results):
    return "\n".join(here.page.iter_lines(results))


def test_a_row_shows_target_median_range_and_sides(here):
    sides = (
        here.rows.Side("recipe", "s", (100.0, 130.0, 90.0)),
        here.rows.Side("ours", "s", (10.0, 10.0, 10.0)),
    )
    values = here.rows.compute_ratios(sides[0].values, sides[1].values)
    row = here.rows.Row("speed", "times", values, at_least=12, sides=sides, remark="clothing")
    text = page(here, make_result(here, here.rows.Sheet([row])))
    assert (
        "| speed | at least 12 times | **10 times** | 9 to 13 times | **short** "
        "| recipe 100 s (90 to 130), ours 10 s (10 to 10); clothing | 2026-01-02 03:04 UTC, abc1234 |"
    ) in text
    assert "- speed: 10 times, target at least 12 times." in text


@pytest.mark.parametrize(
    ("limits", "value", "met"),
    [
        ({"at_least": 2.0}, 2.0, True),
        ({"at_least": 2.0}, 1.99, False),
        ({"at_most": 2.0}, 2.01, False),
        ({"at_least": 10, "at_most": 10}, 10.0, True),
        ({"at_least": 10, "at_most": 10}, 11.0, False),
        ({}, 1.0, None),
    ],
)
def test_the_median_is_compared_with_the_target(here, limits, value, met):
    assert here.rows.Row("row", "s", (0.0, value, 100.0), **limits).met is met


def test_load_of_other_programs_is_marked_at_every_row(here):
    sheet = here.rows.Sheet([here.rows.Row("speed", "times", (1.0,))])
    busy = page(here, make_result(here, sheet, load={"before": 2.4, "others": 0.9}), make_result(here, sheet))
    assert "**1 of 2 benchmarks ran while other programs were at work**" in busy
    assert busy.count("*loaded*") == 2  # in the warning, and at one of the rows
    assert "loaded" not in page(here, make_result(here, sheet))


def test_the_quick_form_is_marked_and_not_compared_with_targets(here):
    sheet = here.rows.Sheet([here.rows.Row("speed", "times", (1.0,), at_least=12)])
    text = page(here, make_result(here, sheet, quick=True))
    assert "abc1234, *quick* |" in text
    assert "short" not in text.lower()
    assert "Missed targets" not in text


def test_results_of_two_machines_name_them(here):
    sheet = here.rows.Sheet([here.rows.Row("speed", "times", (1.0,))])
    text = page(here, make_result(here, sheet), make_result(here, sheet, machine={"processor": "two"}))
    assert "| processor | one | two |" in text
    assert "abc1234, machine 2 |" in text


def test_the_reason_of_a_missed_target_is_read_from_its_benchmark(here, tmp_path):
    bounds = "What bounds it:\n    ridge: memory,\n        and its width.\n    lda: less."
    (tmp_path / "solvers.py").write_text(f'"""Solvers.\n\n{bounds}\n\nusage: solvers.py\n"""\n')
    reasons = {"ridge": "memory, and its width.", "lda": "less."}
    assert here.page.read_bounds(tmp_path / "solvers.py") == reasons
    row = here.rows.Row("ridge, 20 settings", "s", (11.0,), at_most=10)
    assert "target at most 10 s. memory, and its width." in page(
        here, make_result(here, here.rows.Sheet([row]), script=str(tmp_path / "solvers.py"))
    )


def test_printed_lines_become_rows(here):
    predict = next(row for row in here.printed.parse_startup(STARTUP).rows if row.at_most)
    assert (predict.values, predict.median, predict.met) == ((1.1, 1.21, 1.4), 1.21, True)
    clean = next(row for row in here.printed.parse_startup(STARTUP).rows if row.unit == "yes")
    assert clean.met
    assert not here.printed.parse_startup(STARTUP.replace("numpy", "keras")).rows[-1].met
    parts = {profile.title: profile.parts for profile in here.printed.parse_startup(STARTUP).profiles}
    assert parts["train, stage by stage"] == {"list": 0.2, "head": 1.5}
    assert parts["`predict`"]["digests, reading and compiling the graph"] == 0.41

    ratio, loss = here.printed.parse_finetune(FINETUNE).rows
    assert (ratio.values, ratio.at_least, ratio.met) == ((2.5,), 2, True)
    assert loss.values == pytest.approx((5e-4, 5e-4))

    rows = here.printed.parse_taps(TAPS).rows
    assert [row.met for row in rows] == [None, True, True]
    assert rows[1].median == pytest.approx(1.2)


def test_a_result_is_valid_until_commit_machine_versions_or_options_change(here, tmp_path):
    benchmark = here.bench.Benchmark("solvers", "solvers.py", "--rounds 3", "", 1)
    now = make_result(here, here.rows.Sheet())
    assert not here.bench.is_current(benchmark, now, tmp_path)
    file = here.bench.result_path("solvers", quick=False, results=tmp_path)
    file.parent.mkdir()
    file.write_text(json.dumps(now))
    assert here.bench.is_current(benchmark, now, tmp_path)
    for changed in ({"commit": "def"}, {"machine": {}}, {"versions": {}}, {"options": ""}, {"quick": True}):
        assert not here.bench.is_current(benchmark, {**now, **changed}, tmp_path)
    dirty = {**now, "commit": "abc1234+"}  # files differ from the commit
    file.write_text(json.dumps(dirty))
    assert not here.bench.is_current(benchmark, dirty, tmp_path)


def test_every_benchmark_has_a_program(here):
    assert all((BENCHMARKS / benchmark.script).exists() for benchmark in here.bench.BENCHMARKS)
    output = subprocess.run(
        [sys.executable, BENCHMARKS / "bench.py", "--list"], capture_output=True, text=True, check=True
    ).stdout
    assert output.count("\n") == len(here.bench.BENCHMARKS) + 1
