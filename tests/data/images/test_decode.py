"""Decoding: every kind of file becomes the pixels that a person sees, or is refused with a code."""

import io
import re
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.images import encoded, noise, pixels, png, refusal, scene, verdict, without_heif
from PIL import Image, ImageCms, ImageOps

import regraft.data.images.colour
import regraft.data.images.headers
import regraft.data.images.rejections
from regraft.data.images.colour import STRIP_PIXELS
from regraft.data.images.decode import EXTENSIONS, ImageFacts, decode, digest
from regraft.data.images.decoder_pool import DecodingPool, Job
from regraft.data.images.rejections import sniff
from regraft.data.images.resize import resize

CODES = set(re.findall(r"`(\w+)`", regraft.data.images.rejections.__doc__))


# --- what is missing or is no image ---------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("percent", [2, 10, 50, 90, 99])
def test_a_jpeg_cut_short_is_refused_as_truncated(percent, progressive):
    data = encoded(Image.fromarray(noise(200, 160)), "JPEG", quality=85, progressive=progressive)
    assert refusal(data[: len(data) * percent // 100]).code == "truncated"


def test_a_uniform_jpeg_cut_short_is_refused_too():
    data = encoded(Image.new("RGB", (640, 480), (90, 120, 30)), "JPEG")
    assert refusal(data[: len(data) - 40]).code == "truncated"


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_only_its_end_marker_is_accepted_with_a_note(progressive):
    data = encoded(Image.fromarray(noise()), "JPEG", progressive=progressive)
    whole, cut = decode(data, None), decode(data[:-2], None)
    assert cut.facts.notes == ("jpeg_missing_eoi",)
    assert whole.facts.notes == ()
    np.testing.assert_array_equal(cut.pixels, whole.pixels)


def test_a_progressive_jpeg_cut_between_two_scans_is_refused():
    data = encoded(Image.fromarray(scene()), "JPEG", progressive=True, quality=90)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    assert len(scans) > 5
    for start in scans[1:]:
        table = data.rfind(b"\xff\xc4", 0, start)
        assert refusal(data[:start]).code == "truncated"
        assert refusal(data[:table]).code == "truncated"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_no_format_is_accepted_when_cut_in_half(kind):
    data = encoded(Image.fromarray(noise()), kind)
    assert refusal(data[: len(data) // 2]).code in ("truncated", "corrupt")


def test_zero_bytes_are_empty():
    assert refusal(b"").code == "empty"


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "a")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"\xef\xbb\xbf\n <html>Sign in</html>", "HTML"),
        (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'{"error": "rate limited"}', "JSON"),
        (b"just some words\n", "text"),
        ("Grüße aus Köln".encode(), "text"),
        (b"BMW and Audi are makers of cars", "text"),
        (zipped(), "zip"),
        (bytes(range(200, 256)) + b"\0\1\2", "unknown"),
    ],
)
def test_other_files_are_refused_with_what_they_look_like(data, words):
    found = refusal(data, "photo.jpg")
    assert found.code == "not_an_image"
    assert words in found.detail


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        (b'<?xml version="1.0"?>\n<!-- Created with Inkscape -->\n<svg width="1"/>', "unsupported_format"),
        (b"%PDF-1.7\n", "unsupported_format"),
        (b"%!PS-Adobe-3.0 EPSF", "unsupported_format"),
        (b"8BPS\0\1", "unsupported_format"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "unsupported_format"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0", "unsupported_format"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "unsupported_format"),
        (b"\x1aE\xdf\xa3\1\0", "unsupported_format"),
        (b"RIFF\x24\0\0\0AVI LIST", "unsupported_format"),
        (b"II*\0\x10\0\0\0CR\2\0", "unsupported_format"),
        (b"\0\0\1\0\1\0", "unsupported_format"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "needs_plugin", marks=without_heif),
        pytest.param(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "needs_plugin", marks=without_heif),
    ],
)
def test_formats_that_are_not_decoded_are_recognised_by_their_first_bytes(head, code):
    assert sniff(head + bytes(64)).code == code
    assert refusal(head + bytes(64)).code == code


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_sniffing_lets_every_supported_format_pass(kind):
    assert sniff(encoded(Image.fromarray(noise()), kind)[:64]) is None


def test_an_avif_under_the_general_brand_is_decoded():
    data = encoded(Image.fromarray(noise()), "AVIF").replace(b"ftypavif", b"ftypmif1", 1)
    assert sniff(data) is None
    assert decode(data, 8).facts.format == "AVIF"


def test_the_preview_in_a_raw_image_is_not_taken_for_the_image():
    data = encoded(Image.fromarray(noise()), "TIFF", tiffinfo={254: 1})
    assert refusal(data).code == "unsupported_format"


# --- names --------------------------------------------------------------------------------------------------


def test_a_png_called_jpg_is_decoded_and_noted():
    data = encoded(Image.fromarray(noise()))
    decoded = decode(data, None, name="dir/photo.JPG")
    assert decoded.facts == ImageFacts(48, 40, "PNG", ("extension_mismatch",))
    np.testing.assert_array_equal(decoded.pixels, noise())


@pytest.mark.parametrize("name", ["photo.png", "PHOTO.PNG", "photo", "photo.dat", ""])
def test_a_name_that_does_not_contradict_is_not_noted(name):
    assert decode(encoded(Image.fromarray(noise())), None, name=name).facts.notes == ()


def test_extensions_are_lower_case_with_a_dot():
    assert {".jpg", ".png", ".tiff"} < EXTENSIONS
    assert all(re.fullmatch(r"\.[a-z]+", extension) for extension in EXTENSIONS)


# --- sample formats, each against numbers made by hand ------------------------------------------------------


def test_grey_is_the_same_in_three_channels():
    grey = noise()[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(grey))), expected)


def test_one_bit_is_black_and_white():
    bits = noise(40, 8)[..., 0] > 127
    data = png(40, 8, 1, 0, [np.packbits(row).tobytes() for row in bits])
    np.testing.assert_array_equal(pixels(data), np.repeat(bits[..., None] * 255, 3, axis=2))


def test_four_bit_grey_is_spread_over_the_whole_range():
    data = png(4, 1, 4, 0, [bytes([0x05, 0xAF])])
    assert pixels(data)[0, :, 0].tolist() == [0, 5 * 17, 10 * 17, 255]


PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)


def test_a_palette_is_looked_up():
    data = png(4, 1, 2, 3, [bytes([0b00011011])], (b"PLTE", PALETTE.tobytes()))
    np.testing.assert_array_equal(pixels(data)[0], PALETTE)


def test_a_transparent_palette_entry_lies_on_white():
    chunks = (b"PLTE", PALETTE.tobytes()), (b"tRNS", bytes([0, 255, 128]))
    data = png(4, 1, 2, 3, [bytes([0b00011011])], *chunks)
    expected = [[255, 255, 255], [0, 255, 0], [127, 127, 255], [9, 9, 9]]
    assert np.abs(pixels(data)[0].astype(int) - expected).max() <= 1


def test_alpha_lies_on_white_whatever_colour_hides_under_it():
    colour, alpha = noise(), noise(seed=1)[..., :1]
    rgba = np.concatenate([colour, alpha], axis=2)
    share = alpha / 255
    expected = colour * share + 255 * (1 - share)
    assert np.abs(pixels(encoded(Image.fromarray(rgba))) - expected).max() <= 1


def test_grey_with_alpha_lies_on_white():
    data = png(3, 1, 8, 4, [bytes([0, 0, 0, 255, 100, 128])])
    assert np.abs(pixels(data)[0, :, 0].astype(int) - [255, 0, 177]).max() <= 1


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_without_a_stated_range_are_refused(mode):
    data = encoded(Image.fromarray(noise()).convert(mode), "TIFF")
    assert refusal(data).code == "unsupported_bit_depth"


def test_twelve_bit_samples_are_refused():
    data = encoded(Image.fromarray(np.full((4, 4), 4095, np.uint16)), "TIFF")
    entry = struct.pack("<HHII", 258, 3, 1, 16)
    assert entry in data
    assert refusal(data.replace(entry, struct.pack("<HHII", 258, 3, 1, 12))).code == "unsupported_bit_depth"


def test_lab_is_converted():
    colours = Image.fromarray(noise() // 2 + 60)  # away from the edges of what both spaces hold
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    to_lab = ImageCms.buildTransform(*spaces, "RGB", "LAB")
    data = encoded(ImageCms.applyTransform(colours, to_lab), "TIFF")
    assert np.abs(pixels(data).astype(int) - np.asarray(colours)).mean() < 2


# --- frames and orientation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_gives_its_first_frame_and_a_note(kind):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    decoded = decode(data, None)
    assert "animated_first_frame" in decoded.facts.notes
    assert decoded.pixels.shape == (40, 40, 3)
    assert np.abs(decoded.pixels[20, 20].astype(int) - [255, 0, 0]).max() <= 6


@pytest.mark.parametrize(
    ("second", "notes"),
    [
        (Image.fromarray(255 - scene()), ("first_page",)),
        (Image.fromarray(255 - scene()).resize((50, 50)), ()),  # a preview
        (Image.fromarray(255 - scene()).convert("L"), ()),  # a gain map
    ],
    ids=["burst", "preview", "gain map"],
)
def test_of_a_camera_s_several_images_the_first_is_used(second, notes):
    first = Image.fromarray(scene())
    data = encoded(first, "MPO", save_all=True, append_images=[second], progressive=True)
    decoded = decode(data, None, name="a.jpg")
    assert (decoded.facts.format, decoded.facts.notes) == ("MPO", notes)
    assert np.abs(decoded.pixels.astype(int) - scene()).mean() < 3


def test_pages_that_lead_in_a_circle_end():
    data = bytearray(encoded(Image.fromarray(noise()), "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    np.testing.assert_array_equal(pixels(bytes(data)), noise())


def test_more_tiles_than_any_image_has_are_refused():
    tiles = 600_000
    tags = [(256, 20), (257, 20), (258, 8), (259, 1), (262, 1), (277, 1), (322, 1), (323, 1)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    behind = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries += [struct.pack("<HHII", tag, 4, tiles, behind) for tag in (324, 325)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    assert refusal(head + struct.pack("<I", 1) * tiles).code == "decode_timeout"


def test_a_later_frame_of_billions_of_pixels_is_never_reached():
    data = encoded(Image.fromarray(noise()), "GIF")
    frame = b",\0\0\0\0" + struct.pack("<HHBBBB", 65535, 65535, 0, 8, 0, 59)
    assert decode(data[:-1] + frame, 32).facts.notes == ("animated_first_frame",)


def test_pages_give_the_first_and_a_note():
    pages = [Image.fromarray(noise(seed=seed)) for seed in (0, 1)]
    decoded = decode(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]), None)
    assert decoded.facts.notes == ("first_page",)
    np.testing.assert_array_equal(decoded.pixels, noise())


# What a camera stores for each orientation so that the viewer sees the scene upright.
STORED = {
    1: lambda image: image,
    2: ImageOps.mirror,
    3: lambda image: image.rotate(180),
    4: ImageOps.flip,
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.rotate(90, expand=True),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.rotate(270, expand=True),
}


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [("JPEG", {"quality": 95}, 12), ("PNG", {}, 0), ("WEBP", {"lossless": True}, 0), ("TIFF", {}, 0)],
)
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_gives_the_same_image(kind, options, tolerance, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(STORED[orientation](Image.fromarray(scene())), kind, exif=exif, **options)
    received = pixels(data).astype(int)
    assert received.shape == scene().shape
    assert np.abs(received - scene()).max() <= tolerance


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_what_follows_the_image_changes_nothing(kind):
    data = encoded(Image.fromarray(noise()), kind)
    np.testing.assert_array_equal(pixels(data + b"<script>PK\x03\x04" * 100), pixels(data))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(value):
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(noise()), exif=exif)), noise())


def test_an_orientation_that_is_a_text_is_ignored():
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4sI", 0x0112, 2, 2, b"6", 0)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(noise()), exif=exif)), noise())


def test_real_images_in_every_orientation_are_the_same_image(corpora):
    upright = decode((corpora / "orientation/Landscape_0.jpg").read_bytes(), 64).pixels.astype(int)
    for orientation in range(1, 9):
        turned = decode((corpora / f"orientation/Landscape_{orientation}.jpg").read_bytes(), 64).pixels
        assert np.abs(turned - upright).mean() < 2, orientation


@pytest.mark.parametrize(
    "body", [b"Exif\0\0" + bytes(range(90)), b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_corrupt_exif_costs_nothing(body):
    data = encoded(Image.fromarray(noise()), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    np.testing.assert_array_equal(pixels(data[:2] + segment + data[2:]), pixels(data))


def test_real_files_with_broken_metadata_are_used(corpora):
    for name in (
        "hopper_bad_exif",
        "invalid-exif",
        "exif_typeerror",
        "exif_gps_typeerror",
        "broken_exif_dpi",
    ):
        data = (corpora / f"unusual/{name}.jpg").read_bytes()
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(pixels(data), expected)


# --- sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        png(60_000, 60_000, 8, 2, [b""]),
        png(9_000, 9_000, 8, 2, [b""]),
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,\0\0\0\0"
        + struct.pack("<HHBBBB", 65535, 65535, 0, 8, 0, 59),
    ],
    ids=["png", "png beyond our limit only", "gif"],
)
def test_a_bomb_is_refused_from_its_header(data):
    tracemalloc.start()
    begun = time.monotonic()
    assert refusal(data).code == "too_many_pixels"
    assert time.monotonic() - begun < 0.5
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_single_pixel_is_enlarged_and_noted():
    decoded = decode(encoded(Image.new("RGB", (1, 1), (1, 2, 3))), 8)
    assert decoded.facts == ImageFacts(1, 1, "PNG", ("tiny_image", "uniform"))
    assert (decoded.pixels == [1, 2, 3]).all()


@pytest.mark.parametrize("shape", [(10_000, 1), (1, 10_000)])
def test_an_extreme_shape_is_a_square_like_any_other(shape):
    decoded = decode(encoded(Image.new("RGB", shape, (9, 8, 7))), 16)
    assert decoded.pixels.shape == (16, 16, 3)
    assert "extreme_aspect" in decoded.facts.notes


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "I;16"])
def test_an_image_converted_in_strips_is_the_same_image(mode):
    grey = np.broadcast_to(np.linspace(0, 65_000, 1500).astype(np.uint16)[:, None], (1500, 1500))
    image = Image.fromarray(grey.copy()) if mode == "I;16" else smooth(1500).convert(mode)
    assert image.width * image.height > 2 * STRIP_PIXELS
    whole = pixels(encoded(image, "TIFF"))
    expected = Image.fromarray(whole).resize((64, 64), Image.Resampling.BILINEAR)
    received = decode(encoded(image, "TIFF"), 64).pixels
    assert np.abs(received.astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_one_colour_all_over_is_noted(kind):
    data = encoded(Image.new("RGB", (300, 200), (12, 200, 90)), kind)
    assert decode(data, 64).facts.notes == decode(data, None).facts.notes == ("uniform",)


def test_nothing_but_transparency_is_uniform_and_a_spot_is_not():
    clear = np.concatenate([noise(64, 64), np.zeros((64, 64, 1), np.uint8)], axis=2)
    assert decode(encoded(Image.fromarray(clear)), 32).facts.notes == ("uniform",)
    clear[-8:, -8:] = 255, 0, 0, 255
    assert decode(encoded(Image.fromarray(clear)), 32).facts.notes == ()


def test_resizing_averages_over_the_whole_image():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = decode(encoded(Image.fromarray(board.astype(np.uint8))), 8).pixels
    assert np.abs(small.astype(int) - 127).max() <= 8


def smooth(side):
    """An image with no detail finer than a tenth of its side."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(9 * x + phase) * np.cos(7 * y - phase) for phase in (0, 1, 2)]
    return Image.fromarray(np.uint8(127 + 100 * np.stack(waves, -1)))


@pytest.mark.parametrize("side", [255, 256, 520, 1024])
def test_a_large_jpeg_read_smaller_is_the_same_image(side):
    data = encoded(smooth(side), "JPEG")
    whole = Image.open(io.BytesIO(data)).resize((128, 128), Image.Resampling.BILINEAR)
    received = decode(data, 128)
    assert (received.facts.width, received.facts.height) == (side, side)
    assert np.abs(received.pixels.astype(int) - np.asarray(whole).astype(int)).mean() < 1


def test_a_jpeg_below_twice_the_size_is_read_whole():
    data = encoded(Image.fromarray(noise()), "JPEG")
    side = Image.open(io.BytesIO(data)).width // 2 + 1
    whole = resize(Image.open(io.BytesIO(data)), side)
    np.testing.assert_array_equal(decode(data, side).pixels, np.asarray(whole))


# --- one decoder, no surprises ------------------------------------------------------------------------------


def test_every_unusual_file_ends_decoded_or_refused_by_a_documented_code(corpora):
    files = sorted((corpora / "unusual").iterdir())
    verdicts = {path.name: verdict(path.read_bytes(), path.name) for path in files}
    assert set(verdicts.values()) <= CODES | {None}
    assert list(verdicts.values()).count(None) > 60


def test_bytes_changed_at_random_end_decoded_or_refused():
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        whole = encoded(Image.fromarray(noise()), kind)
        for _ in range(60):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(256)
            assert verdict(bytes(data)) in CODES | {None}


def test_the_package_raises_only_documented_codes():
    files = Path(regraft.data.images.rejections.__file__).parent.glob("*.py")
    source = "".join(file.read_text("utf-8") for file in files)
    used = set(re.findall(r'Rejection\(\s*"(\w+)"', source))
    assert used
    assert used <= CODES


def test_a_worker_decodes_the_same_pixels(tmp_path, corpora):
    files = [corpora / "unusual" / name for name in ("pil_sample_cmyk.jpg", "transparent.png", "hopper.webp")]
    files += [corpora / "unusual/hopper_orientation_6.jpg", corpora / "unusual/p_16.png"]
    jobs = [Job(file, digest(file.read_bytes())) for file in files]
    with DecodingPool(jobs, 32, workers=1) as results:
        for file, result in zip(files, results, strict=True):
            here = decode(file.read_bytes(), 32, name=file.name)
            np.testing.assert_array_equal(result.pixels, here.pixels)
            assert result.facts == here.facts
