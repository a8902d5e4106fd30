"""Colour: pixels of every kind against the image they were made from, profiles against their formula."""

import struct

import numpy as np
import pytest
from helpers.images import encoded, noise, pixels, png, scene
from PIL import Image, ImageCms

from regraft.data.images.colour import MAX_PROFILE_BYTES
from regraft.data.images.decode import decode, to_upright_rgb

XYZ = {  # the primaries of each space for white D50, as columns
    "srgb": [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]],
    "display-p3": [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]],
    "adobe": [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]],
}
GAMMA = 2.19921875


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space, **tags):
    """An ICC profile of version 2 with these tags, whose names end in the type's."""
    body, table, at = b"", struct.pack(">I", len(tags)), 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    kind, lab = (b"prtr", b"Lab ") if space == b"CMYK" else (b"mntr", b"XYZ ")
    head = struct.pack(">I4sI4s4s4s12x4s28x", at + len(body), b"", 0x02400000, kind, space, lab, b"acsp")
    head += fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + body


def curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(name):
    columns = np.array(XYZ[name]).T
    primaries = {f"{c}XYZ": b"XYZ \0\0\0\0" + fixed(*xyz) for c, xyz in zip("rgb", columns, strict=True)}
    white = {"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)}
    return profile(b"RGB ", **white, **primaries, **{f"{c}TRC": curve(GAMMA) for c in "rgb"})


def cmyk_profile():
    """A profile of inks: any ink makes the grey of L* = 50, and all four make black."""
    nodes = [(255, 128, 128)] + [(128, 128, 128)] * 14 + [(0, 128, 128)]
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += bytes(range(256)) * 4 + bytes(value for node in nodes for value in node) + bytes(range(256)) * 3
    return profile(b"CMYK", A2B0=table, A2B1=table)


def by_formula(values, name):
    """The sRGB values, in float64, of values in another colour space."""
    linear = (values / 255) ** GAMMA @ np.array(XYZ[name]).T @ np.linalg.inv(np.array(XYZ["srgb"])).T
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


# --- twins: the same picture stored in another way ------------------------------------------------------


def wide(values):
    """8 bits as 16, in the byte order of a PNG."""
    return (values.astype(np.uint16) * 257).astype(">u2")


def rows(values):
    return [row.tobytes() for row in values]


def with_alpha(values, alpha=255):
    return np.concatenate([values, np.full_like(values[..., :1], alpha)], axis=-1)


GREY = noise()[..., :1]
TWINS = {
    "16-bit grey": (png(48, 40, 16, 0, rows(wide(GREY))), GREY.repeat(3, -1)),
    "16-bit RGB": (png(48, 40, 16, 2, rows(wide(noise()))), noise()),
    "16-bit grey and alpha": (png(48, 40, 16, 4, rows(wide(with_alpha(GREY)))), GREY.repeat(3, -1)),
    "16-bit RGBA": (png(48, 40, 16, 6, rows(wide(with_alpha(noise())))), noise()),
    "16-bit RGBA, half clear": (
        png(48, 40, 16, 6, rows(wide(with_alpha(noise(), 128)))),
        noise() * (128 / 255) + 255 * (127 / 255),
    ),
    "16-bit grey TIFF": (
        encoded(Image.fromarray(GREY[..., 0].astype(np.uint16) * 257), "TIFF"),
        GREY.repeat(3, -1),
    ),
    "RGBA": (encoded(Image.fromarray(with_alpha(noise()))), noise()),
    "CMYK TIFF": (encoded(Image.fromarray(noise()).convert("CMYK"), "TIFF"), noise()),
    "RGBA WebP": (encoded(Image.fromarray(with_alpha(noise())), "WEBP", lossless=True), noise()),
}


@pytest.mark.parametrize("name", TWINS)
def test_an_image_stored_otherwise_is_within_two_of_its_twin(name):
    data, twin = TWINS[name]
    assert np.abs(pixels(data) - twin.astype(float)).max() <= 2


@pytest.mark.parametrize("colours", [4, 256])
def test_a_palette_of_any_size_is_its_twin(colours):
    few = Image.fromarray(noise()).quantize(colours)
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(pixels(encoded(few, kind)), np.asarray(few.convert("RGB")))


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    expected = [0, 0, 1, 128, 255]
    by_hand = png(5, 1, 16, 0, rows(values.astype(">u2")))
    assert pixels(by_hand)[0].tolist() == [[value] * 3 for value in expected]
    assert pixels(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == expected


def test_a_transparent_sixteen_bit_grey_lies_on_white():
    values = np.array([[0, 300, 65535]], ">u2")
    data = png(3, 1, 16, 0, rows(values), (b"tRNS", struct.pack(">H", 300)))
    assert pixels(data)[0, :, 0].tolist() == [0, 255, 255]


# --- inks -----------------------------------------------------------------------------------------------


def cmyk_jpeg(image, transform):
    """A CMYK JPEG as Adobe's programs write it, with the number of its marker for the storage of
    inks; None for no marker."""
    data = encoded(image, "JPEG", quality=100, subsampling=0)
    at = data.index(b"\xff\xee")
    assert data[at + 4 : at + 9] == b"Adobe"
    if transform is None:
        return data[:at] + data[at + 16 :]
    return data[: at + 15] + bytes([transform]) + data[at + 16 :]


def test_adobes_inks_are_the_image_and_not_its_negative():
    twin = scene().astype(int)
    data = cmyk_jpeg(Image.fromarray(scene()).convert("CMYK"), 0)
    assert np.abs(pixels(data) - twin).max() <= 4  # 2 and the noise of a JPEG


def test_adobes_inks_as_luminance_are_the_image():
    inks = np.asarray(Image.fromarray(255 - scene()).convert("YCbCr"))
    stored = np.concatenate([255 - inks, np.zeros_like(inks[..., :1])], axis=-1)
    data = cmyk_jpeg(Image.frombytes("CMYK", (96, 80), stored.tobytes()), 2)
    assert np.abs(pixels(data) - scene().astype(int)).max() <= 6  # luminance rounds once more


def test_inks_without_adobes_marker_are_not_inverted():
    inks = 255 - np.asarray(Image.fromarray(scene()).convert("CMYK"))  # Pillow inverts what it writes
    data = cmyk_jpeg(Image.frombytes("CMYK", (96, 80), inks.tobytes()), None)
    assert np.abs(pixels(data) - scene().astype(int)).max() <= 4


def test_inks_are_seen_by_their_profile():
    cyan = Image.new("CMYK", (40, 40), (255, 0, 0, 0))
    assert decode(encoded(cyan, "TIFF"), 8).pixels[0, 0].tolist() == [0, 255, 255]
    for data in (
        encoded(cyan, "TIFF", icc_profile=cmyk_profile()),
        encoded(cyan, "JPEG", icc_profile=cmyk_profile()),
    ):
        decoded = decode(data, 8)
        assert decoded.facts.notes == ("uniform",)
        assert np.abs(decoded.pixels.astype(int) - 119).max() <= 3  # L* = 50 in sRGB


# --- profiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["display-p3", "adobe"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_wider_space_becomes_srgb(name, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(scene()), kind, icc_profile=rgb_profile(name), **options)
    expected = by_formula(scene(), name)
    assert np.abs(expected - scene()).max() > 20
    assert np.abs(pixels(data) - expected).max() <= 2
    assert decode(data, None).facts.notes == ()


def test_a_profile_is_applied_under_transparency_and_to_images_in_memory():
    picture = Image.fromarray(scene())
    opened = decode(encoded(picture, icc_profile=rgb_profile("adobe")), None).pixels
    picture.info["icc_profile"] = rgb_profile("adobe")
    np.testing.assert_array_equal(np.asarray(to_upright_rgb(picture)), opened)
    alpha = encoded(Image.fromarray(with_alpha(scene())), icc_profile=rgb_profile("adobe"))
    np.testing.assert_array_equal(pixels(alpha), opened)


def test_grey_is_seen_by_its_profile():
    steep = profile(b"GRAY", wtpt=b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249), kTRC=curve(1.8))
    grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(40, 0))
    received = pixels(encoded(grey, icc_profile=steep))[0].astype(float)
    lit = (np.arange(256) / 255) ** 1.8
    expected = 255 * np.where(lit <= 0.0031308, 12.92 * lit, 1.055 * lit ** (1 / 2.4) - 0.055)
    assert np.abs(received - expected[:, None]).max() <= 2


def test_a_profile_that_says_srgb_changes_no_pixel():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(Image.fromarray(noise()), icc_profile=srgb)
    assert decode(data, None).facts.notes == ()
    np.testing.assert_array_equal(pixels(data), noise())


@pytest.mark.parametrize(
    "broken",
    [b"no profile at all", rgb_profile("adobe")[:200], cmyk_profile(), bytes(MAX_PROFILE_BYTES + 1)],
    ids=["text", "cut", "of other colours", "huge"],
)
def test_a_profile_that_cannot_be_used_costs_nothing_and_is_noted(broken):
    data = encoded(Image.fromarray(noise()), "TIFF", icc_profile=broken)
    decoded = decode(data, None)
    assert decoded.facts.notes == ("bad_colour_profile",)
    np.testing.assert_array_equal(decoded.pixels, noise())
