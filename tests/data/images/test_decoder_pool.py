"""The decoding pool: results in order, one for each file, whatever happens to a process."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import write_photos
from PIL import Image

from regraft.data.catalog import Catalog, ImageFile, Sample
from regraft.data.images import decoder_process
from regraft.data.images.decode import DecodedImage, decode, digest
from regraft.data.images.decoder_pool import DecodingPool, Job
from regraft.data.images.decoder_process import DecoderProcess
from regraft.data.images.rejections import Rejection
from regraft.errors import EnvironmentFault, UsageError

SIZE = 16


@pytest.fixture
def start_instead(monkeypatch):
    """Return a function that lets another program be started as the child."""
    return lambda program: monkeypatch.setattr(sys, "executable", str(program))


@pytest.fixture
def jobs(tmp_path):
    catalog = Catalog.from_folder(write_photos(tmp_path / "photos", each=4))
    return catalog.make_jobs([sample.digest for sample in catalog.samples])


def here(job):
    return decode(job.path.read_bytes(), SIZE).pixels


def children():
    """The ids of the decoder processes of this process."""
    listing = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split(maxsplit=1) for line in listing.stdout.splitlines()]
    return [int(pid) for pid, command in lines if "regraft.data.images.decoder_process" in command]


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def code(result):
    return result.code if isinstance(result, Rejection) else None


def job(path, data):
    path.write_bytes(data)
    return Job(path, digest(data))


def test_results_come_in_the_order_of_the_jobs(jobs):
    with DecodingPool(jobs, SIZE, workers=2) as results:
        assert len(results) == 12
        for each, result in zip(jobs, results, strict=True):
            np.testing.assert_array_equal(result.pixels, here(each))


def test_further_images_of_a_sample_are_jobs_too(tmp_path):
    sample = Sample("front.png", 0, "f", extra_images=(ImageFile("back.png", "b"),))
    assert Catalog(tmp_path, ("x",), (sample,)).make_jobs(["b", "f"]) == [
        Job(tmp_path / "back.png", "b"),
        Job(tmp_path / "front.png", "f"),
    ]


def test_a_bad_file_is_a_verdict_in_its_place(jobs, tmp_path):
    bad = job(tmp_path / "bad.png", jobs[0].path.read_bytes()[:-60])
    text = job(tmp_path / "text.jpg", b"no image")
    with DecodingPool([jobs[0], bad, text, jobs[1]], SIZE, workers=1) as results:
        assert [code(result) for result in results] == [None, "truncated", "not_an_image", None]


def test_a_file_that_changed_or_went_since_it_was_listed_is_refused(jobs):
    jobs[1].path.write_bytes(jobs[0].path.read_bytes())
    jobs[2].path.unlink()
    with DecodingPool(jobs[:4], SIZE, workers=1) as results:
        assert [code(result) for result in results] == [None, "changed", "unreadable", None]


def test_names_with_newlines_and_broken_bytes_reach_the_child(jobs, tmp_path):
    odd = job(tmp_path / ("a\n\"b'" + os.fsdecode(b"\xff") + ".png"), jobs[0].path.read_bytes())
    with DecodingPool([odd], SIZE) as results:
        assert isinstance(next(iter(results)), DecodedImage)


@pytest.mark.slow
def test_a_child_killed_in_the_middle_costs_at_most_the_file_it_had(jobs):
    with DecodingPool(jobs * 40, SIZE, workers=1, buffer_bytes=0) as results:
        received = [next(iter(results))]
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        received += list(results)
    lost = [result for result in received if isinstance(result, Rejection)]
    assert len(received) == 480
    assert len(lost) <= 1
    assert all(refusal.code == "decoder_died" for refusal in lost)


@pytest.mark.slow
def test_a_child_that_dies_on_a_file_is_replaced_for_the_next(jobs):
    child = DecoderProcess()
    assert isinstance(child.decode(*jobs[0], SIZE), DecodedImage)
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    assert code(child.decode(*jobs[1], SIZE)) == "decoder_died"
    assert isinstance(child.decode(*jobs[1], SIZE), DecodedImage)
    child.end()
    assert not children()


@pytest.mark.slow
def test_a_child_that_hangs_is_refused_by_time_and_replaced(jobs, monkeypatch):
    child = DecoderProcess()
    assert isinstance(child.decode(*jobs[0], SIZE), DecodedImage)
    child.timeout = 0.3
    (pid,) = children()
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    assert code(child.decode(*jobs[1], SIZE)) == "decode_timeout"
    assert time.monotonic() - begun < 5
    child.timeout = 30
    assert isinstance(child.decode(*jobs[1], SIZE), DecodedImage)
    child.end()


@pytest.mark.slow
def test_a_child_that_stops_in_the_middle_of_its_answer_is_refused_by_time(jobs, start_instead, tmp_path):
    half = tmp_path / "half"
    half.write_text(
        f"#!{sys.executable}\n"
        "import sys, time\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        'print(\'{"facts": [1, 1, "PNG", []], "bytes": 768}\', flush=True)\n'
        "time.sleep(60)\n"
    )
    half.chmod(0o700)
    start_instead(half)
    assert code(DecoderProcess(timeout=0.8).decode(*jobs[0], SIZE)) == "decode_timeout"


@pytest.mark.slow
def test_a_file_that_takes_more_memory_than_a_child_may_have_is_refused(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (4000, 4000)).save(path)  # 64 MB of pixels
    program = (
        "import pathlib, sys\n"
        "from regraft.data.images import decoder_process\n"
        "decoder_process.MEMORY = int(sys.argv[2]) * 2**20\n"
        "decoder_process._limit_memory()\n"
        "try:\n"
        "    print(decoder_process.decode(pathlib.Path(sys.argv[1]).read_bytes(), 16).pixels.shape)\n"
        "except decoder_process.Rejection as rejection:\n"
        "    print(rejection.code)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program, str(path), limit],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        for limit in ("90", "300")
    ]
    assert said == ["too_much_memory", "(16, 16, 3)"]


def test_a_child_limits_its_memory(jobs):
    child = DecoderProcess()
    child.decode(*jobs[0], SIZE)
    limit = resource.prlimit(children()[0], resource.RLIMIT_DATA)[0]
    child.end()
    assert limit == decoder_process.MEMORY
    assert 2 * limit < 1_010_000_000


@pytest.mark.slow
def test_the_limit_on_pixels_can_be_moved_and_memory_moves_with_it(jobs, tmp_path, monkeypatch):
    large = Image.linear_gradient("L").resize((10_000, 9_000), Image.Resampling.NEAREST)  # 90 million pixels
    buffer = io.BytesIO()
    large.save(buffer, "PNG", compress_level=1)
    huge = job(tmp_path / "huge.png", buffer.getvalue())
    found = {}
    for most in ("", "128", "0.001"):
        monkeypatch.setenv("REGRAFT_MAX_MEGAPIXELS", most)
        child = DecoderProcess()
        found[most] = [code(child.decode(*each, SIZE)) for each in (huge, jobs[0])]
        limit = resource.prlimit(children()[0], resource.RLIMIT_DATA)[0]
        assert limit == decoder_process.MEMORY * (2 if most == "128" else 1)
        child.end()
    assert found == {
        "": ["too_many_pixels", None],
        "128": [None, None],
        "0.001": ["too_many_pixels", "too_many_pixels"],
    }


@pytest.mark.parametrize("setting", ["many", "0", "-1", "nan", "inf"])
def test_an_invalid_limit_is_reported_before_anything_is_decoded(jobs, monkeypatch, setting):
    monkeypatch.setenv("REGRAFT_MAX_MEGAPIXELS", setting)
    with pytest.raises(UsageError, match=f"REGRAFT_MAX_MEGAPIXELS: expected millions .* Received: {setting}"):
        DecodingPool(jobs, SIZE)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {"compress_level": 1}),
        ("PNG", "RGBA", {"compress_level": 1}),
        ("PNG", "I;16", {"compress_level": 1}),
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
        ("GIF", "P", {}),
    ],
)
def test_sixty_four_million_pixels_are_decoded_within_a_childs_memory(tmp_path, kind, mode, options):
    image = Image.linear_gradient("L").convert(mode).resize((8000, 8000), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    child = DecoderProcess()
    result = child.decode(*job(tmp_path / "large", buffer.getvalue()), 224)
    child.end()
    assert code(result) is None
    assert (result.facts.width, result.facts.height) == (8000, 8000)


def test_closing_early_leaves_no_child(jobs, monkeypatch):
    results = DecodingPool(jobs * 40, SIZE, workers=2, buffer_bytes=0)  # more than may be ahead of the reader
    next(iter(results))
    assert children()
    results.close()
    assert not children()


def test_closing_does_not_wait_for_a_child_that_hangs(jobs):
    results = DecodingPool(jobs * 40, SIZE, workers=1, buffer_bytes=0)
    next(iter(results))
    os.kill(children()[0], signal.SIGSTOP)
    begun = time.monotonic()
    results.close()
    assert time.monotonic() - begun < 5
    assert not children()


def test_reading_on_after_closing_is_an_error_and_not_a_hang(jobs):
    results = DecodingPool(jobs, SIZE, workers=1)
    results.close()
    with pytest.raises(ValueError, match="closed"):
        next(iter(results))


@pytest.mark.slow
def test_decoding_runs_ahead_of_its_reader_but_not_without_bound(jobs):
    with DecodingPool(jobs * 10, SIZE, workers=1, buffer_bytes=0) as results:
        wait_until(lambda: len(results._results) == 64)
        time.sleep(0.1)
        assert len(results._results) == 64
        assert sum(1 for _ in results) == 120


def test_no_jobs_are_no_results_and_no_child():
    with DecodingPool([], SIZE) as results:
        assert list(results) == []
        assert not children()


def test_where_no_child_can_start_the_environment_is_at_fault(jobs, start_instead):
    start_instead("/nowhere/python")
    with (
        DecodingPool(jobs, SIZE, workers=1) as results,
        pytest.raises(EnvironmentFault, match="No such file"),
    ):
        list(results)


def test_a_child_that_ends_at_once_is_not_blamed_on_the_files(jobs, start_instead):
    start_instead("/bin/true")
    with (
        DecodingPool(jobs, SIZE, workers=1) as results,
        pytest.raises(EnvironmentFault, match="does not start"),
    ):
        list(results)


def test_an_unexpected_error_reaches_the_reader(jobs, start_instead, tmp_path):
    """The child answers, but not with what belongs into an answer."""
    program = tmp_path / "child"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n    print('{}', flush=True)\n"
    )
    program.chmod(0o700)
    start_instead(program)
    with DecodingPool(jobs, SIZE, workers=2) as results:
        with pytest.raises(KeyError, match="bytes"):
            results.peek(3)
        with pytest.raises(KeyError, match="bytes"):
            list(results)
    assert not children()


def test_a_module_in_the_current_folder_is_not_imported_by_the_child(jobs, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('hostile')")
    monkeypatch.chdir(tmp_path)
    with DecodingPool(jobs[:1], SIZE) as results:
        assert isinstance(next(iter(results)), DecodedImage)


@pytest.mark.slow
def test_a_script_without_a_main_guard_works(jobs, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from regraft.data.images.decoder_pool import DecodingPool, Job\n"
        "jobs = [Job(Path(path), digest) for path, digest in json.loads(sys.argv[1])]\n"
        "with DecodingPool(jobs, 16, workers=2) as results:\n"
        "    print(sum(result.pixels.shape == (16, 16, 3) for result in results))\n"
    )
    arguments = json.dumps([[str(each.path), each.digest] for each in jobs])
    done = subprocess.run(
        [sys.executable, script, arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("12", "")


def test_a_child_ends_when_its_parent_is_killed(jobs):
    program = (
        "import sys, time, pathlib\n"
        "from regraft.data.images.decoder_process import DecoderProcess\n"
        "process = DecoderProcess()\n"
        "process.decode(pathlib.Path(sys.argv[1]), sys.argv[2], 16)\n"
        "print(process._process._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(jobs[0].path), jobs[0].digest], stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()

    def gone():
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return state.stdout.strip() in ("", "Z")

    wait_until(gone)


def test_threads_end_with_the_work(jobs):
    before = threading.active_count()
    with DecodingPool(jobs, SIZE, workers=2) as results:
        list(results)
    assert threading.active_count() == before
