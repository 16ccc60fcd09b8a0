"""Pictures as they come: each kind is opened right, or refused with its reason."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from msp_ds.data.format.faults import RowError
from msp_ds.errors import InputError
from msp_ds.regions.pictures import list_pictures, open_picture

SCENE = np.zeros((4, 6, 3), np.uint8)
SCENE[:2, :3], SCENE[:2, 3:], SCENE[2:, :3], SCENE[2:, 3:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
"""Red, green / blue, white: no turn and no mirror leaves it as it is."""
PAGE = b"<!DOCTYPE html><html>not found</html>"


def saved(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


def scene(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(SCENE).convert(mode)


def reason(path: Path, **options: int) -> str:
    with pytest.raises(RowError) as error:
        open_picture(path, **options)
    assert str(error.value) == f"{path}: {error.value.reason}"
    assert "\n" not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.tiff", "a.gif", "a.webp", "A.PNG"])
def test_a_lossless_picture_is_its_pixels(tmp_path: Path, name: str) -> None:
    path = saved(
        tmp_path / name, scene("P" if name == "a.gif" else "RGB"), **{"lossless": True} if "webp" in name else {}
    )
    found = open_picture(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, SCENE)


def test_content_decides_and_not_the_ending(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.jpg", format="BMP")
    np.testing.assert_array_equal(open_picture(tmp_path / "a.jpg"), SCENE)


def test_a_jpeg_is_red_where_it_is_red(tmp_path: Path) -> None:
    red = Image.new("RGB", (32, 24), (254, 0, 0))
    found = open_picture(saved(tmp_path / "a.jpg", red, quality=100))
    assert found.shape == (24, 32, 3)
    np.testing.assert_array_equal(found[12, 16], [254, 0, 0])


@pytest.mark.parametrize(("mode", "ending"), [("L", "png"), ("1", "png"), ("P", "png"), ("LA", "png"), ("CMYK", "tif")])
def test_every_mode_comes_as_rgb(tmp_path: Path, mode: str, ending: str) -> None:
    white = Image.new("RGB", (3, 2), "white")
    black = Image.new("RGB", (3, 2), "black")
    for name, picture, value in (("white", white, 255), ("black", black, 0)):
        found = open_picture(saved(tmp_path / f"{name}.{ending}", picture.convert(mode)))
        np.testing.assert_array_equal(found, np.full((2, 3, 3), value, np.uint8))


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    found = open_picture(saved(tmp_path / "a.jpg", cyan, quality=100))
    np.testing.assert_array_equal(found[8, 8], [0, 255, 255])


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 257 * 85, 65535, 128, 129]], np.uint16)
    found = open_picture(saved(tmp_path / "a.png", Image.fromarray(values)))
    np.testing.assert_array_equal(found, np.array([[0, 1, 85, 255, 0, 1]], np.uint8)[:, :, None].repeat(3, 2))
    np.testing.assert_array_equal(open_picture(saved(tmp_path / "a.tif", Image.fromarray(values))), found)
    see_through = open_picture(saved(tmp_path / "b.png", Image.fromarray(values), transparency=257))
    np.testing.assert_array_equal(see_through[0, :, 0], [0, 255, 85, 255, 0, 1])


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_known_white_are_refused(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "a.tif", Image.new(mode, (3, 2)))
    assert "numbers of 32 bits, whose black and white are unknown" in reason(path)


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    hidden = np.dstack([SCENE, np.full((4, 6), 255, np.uint8)])
    hidden[:2, :3, 3], hidden[2:, :3, 3] = 0, 51  # red is hidden, a fifth of the blue is left
    wanted = SCENE.copy()
    wanted[:2, :3], wanted[2:, :3] = 255, (204, 204, 255)
    np.testing.assert_array_equal(open_picture(saved(tmp_path / "a.png", Image.fromarray(hidden))), wanted)


def test_a_transparent_colour_lies_over_white(tmp_path: Path) -> None:
    palette = scene().quantize(4)
    red = palette.getpixel((0, 0))
    wanted = np.where((SCENE == (255, 0, 0)).all(2, keepdims=True), 255, SCENE)
    for name in ("a.png", "a.gif"):
        np.testing.assert_array_equal(open_picture(saved(tmp_path / name, palette, transparency=red)), wanted)
    rgb = saved(tmp_path / "rgb.png", scene(), transparency=(255, 0, 0))
    np.testing.assert_array_equal(open_picture(rgb), wanted)
    grey = saved(tmp_path / "grey.png", Image.new("L", (2, 1), 7), transparency=7)
    np.testing.assert_array_equal(open_picture(grey), np.full((1, 2, 3), 255))


STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda scene: scene,
    2: lambda scene: scene[:, ::-1],
    3: lambda scene: scene[::-1, ::-1],
    4: lambda scene: scene[::-1],
    5: lambda scene: scene.swapaxes(0, 1),
    6: lambda scene: np.rot90(scene),  # the camera was turned: row 0 of the file is the right side of the scene
    7: lambda scene: scene[::-1, ::-1].swapaxes(0, 1),
    8: lambda scene: np.rot90(scene, -1),
}
"""EXIF orientation -> what a camera stores of an upright scene, by the table of the standard."""


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_a_picture_is_upright(tmp_path: Path, name: str, orientation: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    large = SCENE.repeat(16, 0).repeat(16, 1)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](large)))
    options = {"lossless": True} if name == "a.webp" else {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
    found = open_picture(saved(tmp_path / name, stored, exif=tags, **options))
    assert found.shape == large.shape
    assert np.abs(found[8::16, 8::16].astype(int) - SCENE).max() <= (3 if name == "a.jpg" else 0)


def test_sixteen_bits_are_upright_too(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    values = np.array([[0], [257 * 9]], np.uint16)
    path = saved(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(np.rot90(values))), exif=tags)
    np.testing.assert_array_equal(open_picture(path)[:, :, 0], [[0], [9]])


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.tif", "a.png"):
        path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(open_picture(path)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("size", [(1, 1), (2000, 3)])
def test_tiny_and_long_pictures_open(tmp_path: Path, size: tuple[int, int]) -> None:
    assert open_picture(saved(tmp_path / "a.png", Image.new("RGB", size))).shape == (size[1], size[0], 3)


def noise_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file, format="JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (noise_jpeg()[: len(noise_jpeg()) // 2], "is not a readable picture (image file is truncated"),
        (noise_jpeg()[:-200], "is not a readable picture (image file is truncated"),
        (noise_jpeg()[:20], "is not a readable picture ("),
        (b"", "is empty, but should be a picture"),
        (PAGE, "is a web page (HTML), but should be a picture"),
        (b"\x89PNG\r\n\x1a\n", "is not a readable picture (none of JPEG, PNG, WEBP, TIFF, BMP, GIF)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of JPEG, PNG, WEBP, TIFF, BMP, GIF"),
        (b"some words", "none of JPEG, PNG, WEBP, TIFF, BMP, GIF"),
    ],
    ids=["half", "end missing", "header", "empty", "web page", "signature", "program", "text"],
)
def test_a_damaged_file_is_refused_with_its_reason(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert why in reason(tmp_path / "a.jpg")


def test_a_picture_without_pixels_is_refused(tmp_path: Path) -> None:
    data = bytearray(saved(tmp_path / "a.png", Image.new("L", (1, 1))).read_bytes())
    data[16:24] = bytes(8)
    (tmp_path / "a.png").write_bytes(data)
    assert "is not a readable picture" in reason(tmp_path / "a.png")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    data = bytearray(saved(tmp_path / "a.gif", Image.new("P", (1, 1))).read_bytes())
    data[6:10] = b"\x30\x75\x30\x75"  # 30,000 x 30,000
    (tmp_path / "a.gif").write_bytes(data)
    assert reason(tmp_path / "a.gif") == "has 30000 x 30000 pixels, more than 89,478,485; make it smaller"
    limit = Image.MAX_IMAGE_PIXELS
    small = saved(tmp_path / "b.png", Image.new("L", (4, 3)))
    assert reason(small, max_pixels=11) == "has 4 x 3 pixels, more than 11; make it smaller"
    assert open_picture(small, max_pixels=12).shape == (3, 4, 3)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_users_limit_counts_and_not_that_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.new("L", (40, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert open_picture(path, max_pixels=1200).shape == (30, 40, 3)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "x.jpg") == "is not a readable picture (it is a folder)"
    assert reason(tmp_path / "gone.jpg") == "is not a readable picture (No such file or directory)"
    assert reason(tmp_path / "pipe.jpg") == "is not a readable picture (it is not a regular file)"
    assert reason(Path("/dev/zero")) == "is not a readable picture (it is not a regular file)"


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = saved(tmp_path / "a.png", Image.new("L", (4, 3))), Path.open
    path.chmod(0)

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    if os.access(path, os.R_OK):  # root may read every file, so the system's refusal is raised for it
        monkeypatch.setattr(Path, "open", refuse)
    assert reason(path) == "is not a readable picture (Permission denied)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures by their endings, other files, a hidden file, a folder that links to itself."""
    (tmp_path / "below" / "deep").mkdir(parents=True)
    (tmp_path / "x.jpg").mkdir()
    for name in ("b.JPG", "a.png", "below/deep/c.webp", "notes.txt", "._b.jpg", "x.jpg/in.png", "d{1}.gif", "pic"):
        (tmp_path / name).touch()
    (tmp_path / "below" / "loop").symlink_to(tmp_path)
    return tmp_path


def test_folders_are_searched_to_their_ends(folder: Path) -> None:
    names = ["a.png", "b.JPG", "below/deep/c.webp", "d{1}.gif", "x.jpg"]
    assert list_pictures([str(folder)]) == [folder / name for name in names]
    assert list_pictures([str(folder / "below"), str(folder)])[:2] == [folder / "a.png", folder / "b.JPG"]


def test_patterns_and_files_are_found_once_and_in_order(folder: Path) -> None:
    assert list_pictures([f"{folder}/*"]) == list_pictures([f"{folder}/*", str(folder / "a.png")])
    assert list_pictures([f"{folder}/{{b.JPG,a.png}}"]) == [folder / "a.png", folder / "b.JPG"]
    assert list_pictures([f"{folder}/*/deep/*.webp"]) == [folder / "below/deep/c.webp"]
    assert list_pictures([str(folder / "d{1}.gif"), str(folder / "pic")]) == [folder / "d{1}.gif", folder / "pic"]


@pytest.mark.parametrize("name", ["gone", "*.bmp", "*.txt", "empty"])
def test_a_path_without_pictures_is_refused(folder: Path, name: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(
        InputError, match=re.escape(f"{folder}/{name} has no pictures; name folders, patterns or files")
    ):
        list_pictures([str(folder / "a.png"), f"{folder}/{name}"])


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").touch()
    scandir = os.scandir

    def scan(path: str) -> object:
        if str(path).endswith("closed"):  # root may read every folder
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(InputError, match=r"closed cannot be read \(Permission denied\); make it readable, or name the"):
        list_pictures([str(tmp_path)])
