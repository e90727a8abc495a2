import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from selfsight.data import decode
from selfsight.data.decode import Unreadable, fit, probe, read

RED, BLUE = (200, 30, 20), (10, 40, 220)


def two_halves(width=60, height=40):
    """Red at the left, blue at the right."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:, : width // 2], picture[:, width // 2 :] = RED, BLUE
    return Image.fromarray(picture)


def colour_at(pixels, y, x):
    return pixels[:, y, x].tolist()


def near(found, wanted, by=12):
    return all(abs(a - b) <= by for a, b in zip(found, wanted))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tiff", "ppm"])
def test_plain_files_of_many_formats(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    two_halves().save(file)
    pixels = read(file, 3, 0)
    assert pixels.shape == (3, 40, 60)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert near(colour_at(pixels, 20, 5), RED)
    assert near(colour_at(pixels, 20, 55), BLUE)


def test_odd_modes_become_eight_bit_rgb_or_gray(tmp_path):
    cmyk = tmp_path / "cmyk.jpg"
    two_halves().convert("CMYK").save(cmyk, quality=95)
    assert Image.open(cmyk).mode == "CMYK"
    assert near(colour_at(read(cmyk, 3, 0), 20, 5), RED, 20)

    palette = tmp_path / "palette.png"
    two_halves().quantize(4).save(palette)
    assert Image.open(palette).mode == "P"
    assert near(colour_at(read(palette, 3, 0), 20, 55), BLUE)

    alpha = tmp_path / "alpha.png"
    rgba = two_halves().convert("RGBA")
    rgba.putalpha(Image.fromarray(np.repeat([[255] * 30 + [0] * 30], 40, 0).astype(np.uint8)))
    rgba.save(alpha)
    assert near(colour_at(read(alpha, 3, 0), 20, 5), RED, 0)
    assert colour_at(read(alpha, 3, 0), 20, 55) == [255, 255, 255]  # transparent shows white
    assert colour_at(read(alpha, 1, 0), 20, 55) == [255]

    bits = tmp_path / "bits.png"
    Image.fromarray(np.tile([[0, 255]], (4, 2)).astype(np.uint8)).convert("1").save(bits)
    assert colour_at(read(bits, 3, 0), 0, 1) == [255] * 3
    assert read(bits, 1, 0)[0, 0].tolist() == [0, 255, 0, 255]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(deep)
    assert Image.open(deep).mode.startswith("I")
    assert read(deep, 1, 0)[0, 0].tolist() == [0, 1, 128, 255]
    dark = tmp_path / "dark.tiff"  # dark pictures stay dark: 16 bit is divided by 257 whatever is in it
    Image.fromarray(np.array([[0, 100, 200]], np.uint16)).save(dark)
    assert read(dark, 1, 0)[0, 0].tolist() == [0, 0, 1]
    floats = tmp_path / "float.tiff"
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(floats)
    assert read(floats, 1, 0)[0, 0].tolist() == [0, 128, 255]


def test_animations_give_their_first_frame(tmp_path):
    file = tmp_path / "a.gif"
    frames = [Image.new("RGB", (8, 8), c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    frames[0].save(file, save_all=True, append_images=frames[1:])
    assert colour_at(read(file, 3, 0), 4, 4) == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    """The stored picture is turned so that undoing EXIF shows red at the left of a 60 x 40 picture."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpose that the camera did, by EXIF value
    stored = two_halves() if orientation == 1 else two_halves().transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{suffix}", exif=exif)
    for shorter, height, width in ((0, 40, 60), (20, 20, 30)):
        pixels = read(tmp_path / f"a.{suffix}", 3, shorter)
        assert pixels.shape == (3, height, width)
        assert near(colour_at(pixels, height // 2, 2), RED, 25)
        assert near(colour_at(pixels, height // 2, width - 3), BLUE, 25)


def test_sizes_are_limited_with_the_aspect_kept():
    assert fit(480, 640, 192) == (192, 256)
    assert fit(640, 480, 192) == (256, 192)
    assert fit(100, 150, 192) == (100, 150)  # never enlarged
    assert fit(480, 640, 0) == (480, 640)
    assert fit(20, 4000, 64) == (1, 256)  # the longer side has a limit too
    assert fit(3, 40_000, 64) == (1, 256)


def test_reduced_decoding_gives_the_same_picture(tmp_path):
    """JPEG's own reduction is within the error of the resize."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (1600, 1200), Image.Resampling.BICUBIC
    )
    smooth.save(tmp_path / "big.jpg", quality=95)
    smooth.save(tmp_path / "big.png")
    fast, slow = read(tmp_path / "big.jpg", 3, 96).float(), read(tmp_path / "big.png", 3, 96).float()
    assert fast.shape == slow.shape == (3, 96, 128)
    assert (fast - slow).abs().mean() < 2


def test_broken_files_say_why(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(whole, "JPEG")
    cases = {
        "truncated.jpg": whole.getvalue()[: len(whole.getvalue()) // 2],
        "text.jpg": b"hello, this is no picture",
        "empty.png": b"",
        "header.png": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Unreadable) as caught:
            read(tmp_path / name, 3, 32)
        assert str(caught.value)
        assert "\n" not in str(caught.value)
    assert probe(tmp_path / "truncated.jpg") == (80, 80, False)
    with pytest.raises(Unreadable, match="no such file"):
        read(tmp_path / "absent.jpg", 3, 0)
    with pytest.raises(Unreadable, match="not a picture"):
        probe(tmp_path / "text.jpg")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    two_halves(100, 100).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(Unreadable, match="too large"):
        read(tmp_path / "a.png", 3, 32)


def test_tiny_and_long_pictures(tmp_path):
    Image.new("RGB", (1, 1), RED).save(tmp_path / "tiny.png")
    assert colour_at(read(tmp_path / "tiny.png", 3, 64), 0, 0) == list(RED)
    Image.new("RGB", (4000, 20), RED).save(tmp_path / "long.png")
    assert read(tmp_path / "long.png", 3, 64).shape == (3, 1, decode.LONGEST * 64)


def jpeg(mode: str, size: tuple[int, int], **options: object) -> bytes:
    """Noise over a gradient, so that no block is flat."""
    rng = np.random.default_rng(sum(size))
    ramp = np.add.outer(np.arange(size[1]) * 3, np.arange(size[0]) * 2)[..., None] % 256
    pixels = (ramp + rng.integers(0, 80, (size[1], size[0], 3))).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("L", 3), ("L", 1), ("RGB", 1), ("CMYK", 3)])
@pytest.mark.parametrize(
    "size, options",
    [
        ((32, 32), {}),
        ((33, 17), {"quality": 30}),
        ((51, 40), {"progressive": True, "quality": 97}),
        ((24, 40), {"subsampling": 0, "restart_marker_rows": 1, "comment": b"\xff\xd8 not a start"}),
        ((1, 1), {"subsampling": 1}),
        ((60, 45), {"optimize": True, "subsampling": 2, "icc_profile": b"x" * 300}),
    ],
)
def test_the_short_way_gives_what_pillow_gives(
    mode: str, channels: int, size: tuple[int, int], options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = jpeg(mode, size, **options)
    short = decode._plain_jpeg(content, channels, 0)
    assert (short is None) == ((mode, channels) in (("RGB", 1), ("CMYK", 3)))  # these want Pillow's conversions
    found = decode.decoded(content, channels, 0)
    monkeypatch.setattr(decode, "_plain_jpeg", lambda *_: None)
    assert torch.equal(found, decode.decoded(content, channels, 0))


def test_what_goes_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg("RGB", (64, 48))
    assert decode._plain_jpeg(content, 3, 48) is not None
    assert decode._plain_jpeg(content, 3, 47) is None  # it is to be reduced
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = jpeg("RGB", (64, 48), exif=exif)
    assert decode._plain_jpeg(turned, 3, 0) is None
    assert decode.decoded(turned, 3, 0).shape == (3, 64, 48)
    for broken in (content[:-100], content[:300], b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x00" * 9):
        assert decode._plain_jpeg(broken, 3, 0) is None  # Pillow says what is wrong
        with pytest.raises(decode.Unreadable):
            decode.decoded(broken, 3, 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode._plain_jpeg(content, 3, 0) is None
    with pytest.raises(decode.Unreadable, match="too large"):
        decode.decoded(content, 3, 0)
