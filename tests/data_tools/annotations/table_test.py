"""Files that are of no known format, and tables that should not be written."""

import json
import uuid

import fsspec
import pytest

from coca_jax import cli
from coca_jax.data_tools.annotations import write_table
from coca_jax.errors import UserError

QUESTIONS = {"questions": [{"image_id": 1, "question": "Is it gray?", "question_id": 1000}]}
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [{"id": 1, "image_id": 1, "caption": "a"}],
}


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        (
            {"posts": [], "version": 1},
            "",
            "has an unknown format. It has posts, version. Known formats: COCO: `images` and",
        ),
        ([1, 2], "", "has an unknown format. It has a list."),
        (({"a": 1}, {"a": 2}), "", "has an unknown format. It has a."),
        ("", "", "cannot be read"),
        ("{", "", "cannot be read"),
        (({"identifier": "dev-1-0-0", "sentence": "a"},), "dev", "it has no split 'dev'"),
    ],
)
def test_files_of_no_known_format(tmp_path, write, capsys, content, split, message):
    path, output = write(content), tmp_path / "out.jsonl"
    words = ["data", "convert-annotations", str(path), str(output), "--images", str(tmp_path)]
    assert cli.main([*words, "--split", split]) == 2
    printed = capsys.readouterr().err
    assert message in printed and str(path) in printed


def test_an_image_that_is_listed_and_absent(tmp_path, write):
    path = write(COCO)
    with pytest.raises(UserError, match=r"1 file of images is missing: .*a\.jpg"):
        write_table([path], tmp_path, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    for name in ("x" * 10_000, "a\0b", "\ud800"):  # of no file
        odd = write(COCO | {"images": [{"id": 1, "file_name": name}]}, "odd.json")
        with pytest.raises(UserError, match="1 file of images is missing"):
            write_table([odd], tmp_path, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        write_table([tmp_path / "absent.json"], tmp_path, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match=r"should end with \.jsonl"):
        write_table([path], tmp_path, tmp_path / "out.json")
    with pytest.raises(UserError, match="give one file of annotations, or VQAv2's two"):
        write_table([path] * 3, tmp_path, tmp_path / "out.jsonl")
    with pytest.raises(UserError, match="VQAv2's files have no split 'val'"):
        write_table([path] * 2, tmp_path, tmp_path / "out.jsonl", "val")


def test_only_a_table_is_replaced(tmp_path, write, draw):
    path, folder, output = write(COCO), draw("a.jpg"), tmp_path / "out.jsonl"
    for _ in range(2):
        assert write_table([path], folder, output).rows == 1
    other = write(({"Flickr30K_ID": "1"}, {"Flickr30K_ID": "2"}), "snli_ve_dev.jsonl")
    with pytest.raises(UserError, match=r"snli_ve_dev\.jsonl exists and is not a table"):
        write_table([path], folder, other)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_windows_programs(tmp_path, draw, encoding):
    folder = draw("dev-1-0-img0.png", "dev-1-0-img1.png")
    row = {"identifier": "dev-1-0-0", "sentence": "Zwei\u2028Füße", "label": "True"}
    lines = [json.dumps(row | {"identifier": f"dev-1-0-{i}"}, ensure_ascii=False) for i in (0, 1)]
    path = tmp_path / "dev.json"
    path.write_bytes("\r\n".join(lines).encode(encoding))
    assert write_table([path], folder, tmp_path / "out.jsonl").rows == 1
    (made,) = (tmp_path / "out.jsonl").read_text().split("\n")[:-1]
    assert json.loads(made)["statements"] == ["Zwei\u2028Füße"] * 2


def test_files_at_urls_are_read_and_written_like_others(draw):
    root, images = f"memory://{uuid.uuid4()}", draw("a.jpg")
    fsspec.filesystem("memory").pipe(f"{root}/coco.json", json.dumps(COCO).encode())
    output = f"{root}/out.jsonl"
    assert write_table([f"{root}/coco.json"], images.as_uri(), output).rows == 1
    (line,) = fsspec.open(output).open().read().splitlines()
    assert json.loads(line)["image"] == str(images / "a.jpg")
    assert write_table([f"{root}/coco.json"], images, output).rows == 1
    with pytest.raises(UserError, match="is not a table, so it is not replaced"):
        fsspec.filesystem("memory").pipe(output, b'{"a": 1}\n')
        write_table([f"{root}/coco.json"], images, output)
    with pytest.raises(UserError, match="the images of a table must be in a local folder"):
        write_table([f"{root}/coco.json"], root, output)
