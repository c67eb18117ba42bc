"""Photo files: what is read from them, how crops are cut and pasted, what a saved file carries."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from hsd_jax.imaging import files, framing, opening
from hsd_jax.imaging.framing import Crop
from hsd_jax.models.landmarks import POINTS
from hsd_jax.parsing.faces import Face
from hsd_jax.parsing.landmarks import Landmarks

SIZE = (80, 64)  # width, height


def _image(height: int = 64, width: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _hollow_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


# Opening


def test_a_path_an_image_and_an_array_give_the_same_photo(tmp_path):
    pixels = _image()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels):
        opened = files.open_photo(source)
        assert opened.dtype == np.uint8
        np.testing.assert_array_equal(opened, pixels)


# Each orientation, as the transform of the upright photo that a camera stores under it.
ORIENTATIONS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = _image()
    stored = Image.fromarray(np.ascontiguousarray(ORIENTATIONS[orientation](upright)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(files.open_photo(tmp_path / "a.png"), upright)


def _transparent_palette() -> Image.Image:
    image = Image.new("P", SIZE, 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 40, 64))
    image.info["transparency"] = 0
    return image


def test_transparent_palette_entries_are_laid_on_white(tmp_path):
    _transparent_palette().save(tmp_path / "a.png")
    opened = files.open_photo(tmp_path / "a.png")
    assert (opened[:, :40] == 255).all()
    assert (opened[:, 40:] == [0, 0, 255]).all()


MODES = {
    "L": (Image.new("L", SIZE, 100), (100, 100, 100)),
    "1": (Image.new("1", SIZE, 1), (255, 255, 255)),
    "LA": (Image.new("LA", SIZE, (100, 0)), (255, 255, 255)),
    "RGBA": (Image.new("RGBA", SIZE, (200, 100, 0, 255)), (200, 100, 0)),
    "RGBA, half": (Image.new("RGBA", SIZE, (0, 0, 0, 128)), (127, 127, 127)),
    "CMYK": (Image.new("CMYK", SIZE, (0, 255, 255, 0)), (255, 0, 0)),
    "I;16": (Image.fromarray(np.full(SIZE[::-1], 50 * 257, np.uint16)), (50, 50, 50)),
    "I, 8 bits": (Image.fromarray(np.full(SIZE[::-1], 50, np.int32)), (50, 50, 50)),
    "F": (Image.fromarray(np.full(SIZE[::-1], 50, np.float32)), (50, 50, 50)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode):
    image, colour = MODES[mode]
    opened = files.open_photo(image)
    assert opened.shape == (64, 80, 3) and opened.dtype == np.uint8
    assert (opened == colour).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1", "I;16"])
def test_modes_survive_a_png(tmp_path, mode):
    image, colour = MODES[mode]
    image.save(tmp_path / "a.png")
    assert (files.open_photo(tmp_path / "a.png") == colour).all()


def test_cmyk_survives_a_jpeg(tmp_path):
    image, colour = MODES["CMYK"]
    image.save(tmp_path / "a.jpg")
    opened = files.open_photo(tmp_path / "a.jpg").astype(int)
    assert np.abs(opened - colour).max() <= 3


def test_sizes_out_of_range_are_refused(monkeypatch):
    assert files.open_photo(_image(64, 64)).shape == (64, 64, 3)
    with pytest.raises(ValueError, match="only 80 x 63 pixels"):
        files.open_photo(_image(63, 80))
    monkeypatch.setattr(files, "MAX_PIXELS", 5000)
    with pytest.raises(ValueError, match="100 x 64 pixels.*shrink it"):
        files.open_photo(_image(64, 100))


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "bomb.png").write_bytes(_hollow_png(30_000, 30_000))
    with pytest.raises(ValueError, match="bomb.png.*million"):
        files.open_photo(tmp_path / "bomb.png")


def _jpeg(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _truncated() -> bytes:
    return _jpeg(_image())[:1500]


BROKEN = {
    "text": (b"not an image", "not an image that can be read"),
    "empty": (b"", "not an image that can be read"),
    "truncated": (_truncated(), "cannot be read .* is the file complete"),
    "no pixels": (_hollow_png(*SIZE), "cannot be read .* is the file complete"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named(tmp_path, kind):
    content, message = BROKEN[kind]
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=f"broken.jpg.*{message}"):
        files.open_photo(tmp_path / "broken.jpg")


def test_what_is_no_photo_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nobody.jpg: no such file"):
        files.open_photo(tmp_path / "nobody.jpg")
    with pytest.raises(ValueError, match="is a folder: give a photo"):
        files.open_photo(tmp_path)
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(ValueError, match="loop.jpg cannot be read: Too many levels"):
        files.open_photo(tmp_path / "loop.jpg")
    for address in ("https://example.com/a.jpg", Path("file:///tmp/a.jpg")):
        with pytest.raises(ValueError, match="no such file, and addresses are not read: download"):
            files.open_photo(address)
    with pytest.raises(ValueError, match="float64 .* give uint8"):
        files.open_photo(np.zeros((64, 64, 3)))
    for shape in ((64,), (64, 64, 2), (64, 64, 5), (1, 64, 64, 3)):
        with pytest.raises(ValueError, match="give uint8"):
            files.open_photo(np.zeros(shape, np.uint8))


HINTS = {
    b"": "it is empty",
    b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
    b"<!DOCTYPE html>": "a web page",
    b"%PDF-1.7": "a PDF",
    b"\0\0\0\x18ftypheic\0\0\0\0": "HEIC",
    b"\xff\xd8\xff": "damaged",
    b"\0\0\0\x20ftypisom\0\0\2\0": "a video",
    b"\x1a\x45\xdf\xa3": "a video",
    b"\0\0\0\x18ftypcrx ": "a camera's raw file",
    b"\xff\x0a": "JPEG XL",
    b"8BPS\0\1": "Photoshop",
    b"PK\3\4": "an archive",
    b"\x93NUMPY": "a NumPy array",
    b"data:image/png;base64,iVBORw0KGgo": "base64",
}


@pytest.mark.parametrize("start", HINTS)
def test_what_is_taken_for_a_photo_is_told(tmp_path, start):
    (tmp_path / "a.jpg").write_bytes(start)
    with pytest.raises(ValueError, match=f"a.jpg is not an image .*{HINTS[start]}"):
        files.open_photo(tmp_path / "a.jpg")


def test_the_preview_in_a_raw_file_is_not_the_photo(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1  # a reduced image of another in the file
    Image.fromarray(_image()).save(tmp_path / "a.dng", "TIFF", tiffinfo=tags)
    with pytest.raises(ValueError, match="a.dng holds only a small preview .*raw file"):
        files.open_photo(tmp_path / "a.dng")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_a_pipe_is_read_up_to_a_limit(monkeypatch):
    file = _jpeg(_image())
    for limit, refused in ((len(file), False), (len(file) - 1, True)):
        monkeypatch.setattr(opening, "LARGEST", limit)
        out, into = os.pipe()
        os.write(into, file)
        os.close(into)
        if refused:
            with pytest.raises(ValueError, match="sends more than"):
                files.open_photo(f"/dev/fd/{out}")
        else:
            assert files.open_photo(f"/dev/fd/{out}").shape == _image().shape
        os.close(out)


def test_decoders_that_run_programs_are_not_asked(tmp_path):
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n")
    with pytest.raises(ValueError, match="a.eps is not an image"):
        files.open_photo(tmp_path / "a.eps")


def _exif(*entries: bytes, tail: bytes = b"") -> bytes:
    """Orientation 6, and other entries."""
    entries = (struct.pack("<HHIHH", 0x112, 3, 1, 6, 0), *entries)
    table = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    return b"Exif\0\0II*\0\x08\0\0\0" + table + tail


ODD_EXIF = {
    "a rational of -1/0": _exif(
        struct.pack("<HHII", 282, 10, 1, 38), tail=struct.pack("<ii", -1, 0)
    ),
    "text for a number": _exif(struct.pack("<HHI4s", 282, 2, 4, b"abc")),
    "an unknown type": _exif(struct.pack("<HHII", 283, 99, 1, 38)),
    "an offset beyond the end": _exif(struct.pack("<HHII", 271, 2, 100, 9_999_999)),
    "a directory in itself": _exif(struct.pack("<HHII", 0x8825, 4, 1, 8)),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ODD_EXIF)
def test_of_exif_the_orientation_alone_counts(tmp_path, kind):
    upright = _image()
    stored = np.ascontiguousarray(ORIENTATIONS[6](upright))
    (tmp_path / "a.jpg").write_bytes(_jpeg(stored, exif=ODD_EXIF[kind], quality=100, subsampling=0))
    opened = files.open_photo(tmp_path / "a.jpg").astype(int)
    assert np.abs(opened - upright).mean() < 30 < np.abs(opened[::-1, ::-1] - upright).mean()


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt"])
def test_long_texts_of_a_png_are_no_attack(tmp_path, kind):
    text = b"x" * 3_000_000
    starts = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"tEXt": b"a\0"}
    content = starts[kind] + (text if kind == b"tEXt" else zlib.compress(text))
    buffer = io.BytesIO()
    Image.fromarray(_image()).save(buffer, "PNG")
    data = buffer.getvalue()
    chunk = struct.pack(">I", len(content)) + kind + content
    chunk += struct.pack(">I", zlib.crc32(kind + content))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])  # behind the header
    np.testing.assert_array_equal(files.open_photo(tmp_path / "a.png"), _image())


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes_is_a_photo(tmp_path, progressive):
    ramp = np.linspace(0, 255, 640).astype(np.uint8)[:, None, None]
    pixels = np.broadcast_to(ramp, (640, 80, 3)).copy()
    whole = _jpeg(pixels, progressive=progressive)
    for missing in (1, 2, 30):
        (tmp_path / "a.jpg").write_bytes(whole[:-missing])
        photo = files.read_photo(tmp_path / "a.jpg")
        assert np.abs(photo.pixels[:600].astype(int) - pixels[:600]).max() < 5
        (note,) = photo.notes
        assert "a.jpg lacks its last bytes" in note
    (tmp_path / "a.jpg").write_bytes(whole[:-100])
    photo = files.read_photo(tmp_path / "a.jpg")
    rows = int((photo.pixels == 128).all((1, 2))[480:].sum())
    assert (f"{rows} of its rows are grey" in photo.notes[0]) == (rows > 0) == (not progressive)


# Crops


def test_crop_around_golden():
    # Half-body: the face's centroid at (0.5, 0.342) of the side; portrait: at (0.5, 0.51).
    assert Face(300, 200, 41.8).crop(0.209) == Crop(left=200, top=132, side=200)
    assert Face(300, 200, 95).crop(0.475) == Crop(left=200, top=98, side=200)
    between = Face(300, 200, 68.4).crop(0.342)
    assert between.side == 200 and 98 < between.top < 132
    assert Face(10, 10, 2).crop(0.209).side == files.MIN_SIDE
    assert Crop(5, 6, 70).shifted(-2.6) == Crop(2, 6, 70)


def marked_face(x: float, y: float, size: float, confidence: float = 1.0) -> Face:
    """A face from the front whose mask is off by a tenth of it, and whose landmarks are not."""
    points = np.zeros((len(POINTS), 2), np.float32)
    for name, place in {"left_eye": (-0.22, -0.1), "right_eye": (0.22, -0.1), "chin": (0, 0.6),
                        "forehead": (0, -0.55)}.items():  # fmt: skip
        points[POINTS.index(name)] = np.array(place) * size + (x, y)
    marks = Landmarks(points, 0.0, 0.0, confidence)
    return Face(x + 0.1 * size, y, 1.1 * size, 1.0, marks)


def test_a_crop_like_another_has_its_eyes_in_one_place():
    body, head = marked_face(300, 200, 80), marked_face(900, 700, 160)
    crop = body.crop(0.3)
    found = head.crop_like(body, crop)
    assert found is not None and found.side == 2 * crop.side
    places = [
        (face.landmarks.eyes - (square.left, square.top)) / square.side
        for face, square in ((body, crop), (head, found))
    ]
    np.testing.assert_allclose(places[0], places[1], atol=0.5 / found.side + 1e-6)
    assert marked_face(900, 700, 160, 0.5).crop_like(body, crop) is None
    assert Face(900, 700, 160).crop_like(body, crop) is None


def test_the_size_of_a_head_stays_when_it_turns():
    front = marked_face(0, 0, 100).landmarks
    assert front.roll == 0 and front.eyes.tolist() == [0, -10]
    turned = front.points * np.array([np.cos(np.radians(25)), 1], np.float32)
    assert Landmarks(turned, 25.0, 0.0, 1.0).size == pytest.approx(front.size, rel=0.01)
    quarter = front.points[:, ::-1] * np.array([-1, 1], np.float32)
    assert Landmarks(quarter, 0.0, 0.0, 1.0).roll == pytest.approx(90)


def test_room_is_what_lies_beyond_the_crop():
    picture = np.zeros((100, 200, 3), np.uint8)
    assert framing.room(picture, framing.Crop(40, -10, 80)) == pytest.approx(
        (-0.125, 0.375, 0.5, 1.0)
    )


def test_framing_closes_in_only_where_the_photo_shows_less():
    pixels = _image(64, 100)
    shares = [Face(0, 0, size).share_in(pixels) for size in (5, 20, 22.99, 33, 52.25, 90)]
    np.testing.assert_allclose(shares, [0.209, 0.209, 0.209, 0.3, 0.475, 0.475])


def test_take_repeats_edge_pixels_beyond_the_photo():
    pixels = _image()
    square = framing.take(pixels, Crop(left=-10, top=-20, side=100))
    np.testing.assert_array_equal(square[20:84, 10:90], pixels)
    np.testing.assert_array_equal(square[:20, 10:90], np.repeat(pixels[:1], 20, 0))
    np.testing.assert_array_equal(square[84:, 10:90], np.repeat(pixels[-1:], 16, 0))
    np.testing.assert_array_equal(square[20:84, :10], np.repeat(pixels[:, :1], 10, 1))
    np.testing.assert_array_equal(square[20:84, 90:], np.repeat(pixels[:, -1:], 10, 1))
    assert (square[:20, :10] == pixels[0, 0]).all()


@pytest.mark.parametrize("crop", [Crop(10, 5, 40), Crop(-10, -20, 100), Crop(50, 30, 64)])
def test_paste_after_take_is_the_identity(crop):
    pixels = _image()
    np.testing.assert_array_equal(framing.paste(pixels, framing.take(pixels, crop), crop), pixels)


def test_paste_changes_the_crop_alone_and_not_its_input():
    pixels = _image()
    before = pixels.copy()
    result = framing.paste(pixels, np.full((30, 30, 3), 7, np.uint8), Crop(60, -10, 30))
    np.testing.assert_array_equal(pixels, before)
    assert (result[:20, 60:] == 7).all()
    np.testing.assert_array_equal(result[20:], pixels[20:])
    np.testing.assert_array_equal(result[:, :60], pixels[:, :60])


def test_a_turned_crop_shows_points_where_it_says():
    """A dark and a light spot of a photo, in a crop turned clockwise that ends beyond it."""
    pixels, spots = np.full((120, 160, 3), 128, np.uint8), np.array([(60, 40), (100, 70)])
    pixels[39:42, 59:62], pixels[69:72, 99:102] = 0, 255
    crop = Crop(20, 5, 100, turn=30.0)
    for size in (100, 200):
        square = framing.take(pixels, crop, size).astype(float).mean(-1)
        for spot, place in zip((128 - square, square - 128), crop.places(spots + 0.5), strict=True):
            weight = np.where(spot > 30, spot, 0)  # no ringing
            rows, columns = np.indices(square.shape)
            found = [(axis * weight).sum() / weight.sum() for axis in (columns, rows)]
            np.testing.assert_allclose(found, place * size - 0.5, atol=1.0)
    np.testing.assert_allclose(crop.points(crop.places(spots)), spots)
    right = crop.shifted(50)
    assert (right.left, right.top) == (20 + 43, 5 + 25)  # 50 cos 30, 50 sin 30
    corners = crop.points(np.array([(0.005, 0.005), (0.995, 0.005), (0.995, 0.995)]))
    inside = framing.inside(pixels, crop, 100)
    found = [inside[0, 0], inside[0, -1], inside[-1, -1]]
    assert found == [bool((x >= 0).all() and (x < (160, 120)).all()) for x in corners]
    assert {*found} == {False, True}


def test_take_resizes_without_shift():
    # A ramp stays a ramp: the value at a pixel's middle is that of the photo there.
    ramp = np.repeat(np.arange(0, 256, 2, np.uint8)[None, :, None], 128, 0).repeat(3, 2)
    small = framing.take(ramp, Crop(0, 0, 128), 64)[32, 4:-4, 0].astype(float)
    assert np.abs(small - (np.arange(4, 60) * 4 + 1)).max() <= 1
    large = framing.take(ramp, Crop(0, 0, 128), 256)[128, 8:-8, 0].astype(float)
    assert np.abs(large - (np.arange(8, 248) - 0.5)).max() <= 1


def test_resize_map_keeps_values_and_places():
    ramp = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None], 64, 0)
    large = framing.resize_map(ramp, 128)
    assert large.dtype == np.float32 and large.shape == (128, 128)
    np.testing.assert_allclose(large[5, 2:-2], (np.arange(2, 126) - 0.5) / 126, atol=1e-5)


def test_inside_says_which_pixels_of_a_crop_the_photo_has():
    seen = framing.inside(_image(), Crop(left=-20, top=-10, side=120), 60)
    expected = np.zeros((60, 60), bool)
    expected[5:37, 10:50] = True  # rows -10 to 110 of 64, columns -20 to 100 of 80, at half size
    np.testing.assert_array_equal(seen, expected)


# Saving


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG", ".webp"])
def test_provenance_is_read_back(tmp_path, ending):
    pixels = np.full((64, 80, 3), (200, 100, 50), np.uint8)
    path = tmp_path / f"a{ending}"
    files.save_image(pixels, path)
    with Image.open(path) as image:
        exif = image.getexif()
        assert "Synthetic image" in exif[ExifTags.Base.ImageDescription]
        assert "hsd_jax" in exif[ExifTags.Base.Software]
        if ending == ".png":
            assert image.info["Description"] == exif[ExifTags.Base.ImageDescription]
    assert np.abs(files.open_photo(path).astype(int) - pixels).max() <= 2


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_lossless_formats_keep_every_pixel(tmp_path, ending):
    pixels = _image()
    files.save_image(pixels, tmp_path / f"a{ending}")
    np.testing.assert_array_equal(files.open_photo(tmp_path / f"a{ending}"), pixels)


def test_what_is_not_synthetic_carries_no_provenance(tmp_path):
    files.save_image(_image(), tmp_path / "a.png", mark=None)
    with Image.open(tmp_path / "a.png") as image:
        assert not image.getexif() and "Description" not in image.info


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_failed_write_leaves_the_folder_as_it_was(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"old")
    write = Path.write_bytes

    def disk_full(self, path=None, **_):
        write(path if isinstance(path, Path) else self, b"half")
        raise OSError("No space left on device")

    writer = (Path, "write_bytes") if name == "a.png" else (Image.Image, "save")
    monkeypatch.setattr(*writer, disk_full)
    with pytest.raises(ValueError, match=f"{name} cannot be written: No space left"):
        files.save_image(_image(), tmp_path / name)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


@pytest.mark.parametrize(("height", "width"), [(64, 80), (513, 7), (512, 3), (1, 300)])
def test_a_png_in_parts_is_read_back_whole(tmp_path, height, width):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    pixels[: height // 2] //= 128
    files.save_image(pixels, tmp_path / "a.png", srgb=True)
    with Image.open(tmp_path / "a.png") as image:
        image.verify()  # every checksum
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert image.info["icc_profile"] and b"hsd_jax" in image.info["xmp"]


@pytest.mark.parametrize("side", [50, 700, 90])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_tile_is_that_of_the_whole_resized(side, smooth):
    values = np.random.default_rng(0).random((600, 600, 2)).astype(np.float32)
    tile = slice(side // 3, side // 2), slice(0, side // 5)
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.LANCZOS
    bands = [Image.fromarray(band).resize((side, side), how) for band in values.transpose(2, 0, 1)]
    wanted = np.stack(bands, -1)[tile]
    np.testing.assert_allclose(framing.Scaled(values, side, smooth).at(tile), wanted, atol=1e-5)
    image = np.uint8(255 * values[..., [0, 1, 0]])
    wanted = framing.resize(image, side)[tile].astype(int)
    assert np.abs(framing.Scaled(image, side).at(tile) - wanted).max() <= 1
    rows, columns = framing.cells(tile, side, 600)
    apart = values.copy()
    apart[rows, columns] = 0
    if smooth and side > 600:  # enlarged, a tile only depends on its cells
        assert (framing.Scaled(apart, side, smooth).at(tile) == 0).all()


@pytest.mark.parametrize("crop", [Crop(10, 5, 40), Crop(-10, -20, 100), Crop(50, 30, 64)])
def test_what_is_put_by_tiles_is_pasted(crop):
    square = np.random.default_rng(1).integers(0, 256, (crop.side, crop.side, 3), np.uint8)
    photo, edges = _image(), (0, crop.side // 3, crop.side)
    parts = [slice(*edges[:2]), slice(*edges[1:])]
    for tile in ((rows, columns) for rows in parts for columns in parts):
        framing.put(photo, square[tile], crop, tile)
    np.testing.assert_array_equal(photo, framing.paste(_image(), square, crop))


def test_the_tiles_of_a_square_cover_it_once():
    counts = np.zeros((1200, 1200), int)
    for tile in framing.tiles(1200):
        counts[tile] += 1
    assert (counts == 1).all()


def test_output_names_are_checked(tmp_path):
    files.check_output(tmp_path / "a.PNG")
    with pytest.raises(ValueError, match="end the name in one of .png"):
        files.check_output(tmp_path / "a.gif")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "nowhere" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(ValueError, match="a folder that exists"):
            files.check_output(path)
    longest = tmp_path / ("é" * 125 + "a.png")  # 255 bytes
    files.check_output(longest)
    files.save_image(_image(), longest)
    with pytest.raises(ValueError, match="(?i)name too long: give another name"):
        files.check_output(tmp_path / ("é" * 125 + "aa.png"))


def test_a_folder_that_takes_no_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="/proc cannot be written to .*: give another folder"):
        files.check_output("/proc/a.png")


def test_a_side_that_the_format_cannot_hold_is_refused(tmp_path):
    for ending, side in ((".webp", 16_384), (".jpg", 65_501)):
        with pytest.raises(ValueError, match=f"{side} pixels are too many .* end the name in .png"):
            files.save_image(np.zeros((1, side, 3), np.uint8), tmp_path / f"a{ending}")
    assert not list(tmp_path.iterdir())


def test_a_layout_is_a_palette_png_of_eight_bits(tmp_path):
    layout = np.random.default_rng(0).integers(0, 3, (64, 80), np.int32)
    palette = ((0, 0, 0), (10, 20, 30), (255, 0, 128))
    files.save_layout(layout, tmp_path / "a.png", palette)
    assert (tmp_path / "a.png").read_bytes()[24:26] == bytes([8, 3])  # IHDR: bits, colour type
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), layout)
    np.testing.assert_array_equal(
        files.open_photo(tmp_path / "a.png"), np.asarray(palette, np.uint8)[layout]
    )
    with pytest.raises(ValueError, match="end the name in .png"):
        files.save_layout(layout, tmp_path / "a.jpg", palette)


def test_an_embedded_profile_is_converted_to_srgb(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The primaries of red and green exchanged, in the table of the profile's tags.
    swapped = srgb.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    picture = Image.new("RGB", (64, 64), (0, 250, 0))
    for profile, want in ((srgb, (0, 250, 0)), (swapped, (250, 0, 0)), (srgb[:90], (0, 250, 0))):
        picture.save(tmp_path / "picture.png", icc_profile=profile)
        got = files.open_photo(tmp_path / "picture.png")[0, 0]
        np.testing.assert_allclose(got, want, atol=2)
