"""NLVR2's files, in exactly their format."""

import pytest

from coca_jax import cli
from coca_jax.data_tools.annotations import write_table
from coca_jax.errors import UserError


def line(identifier, label, **others):
    return {
        "validation": {"77": label},
        "sentence": f"Sentence {identifier[-1]}.",
        "left_url": "https://example.com/a.jpg",
        "writer": "103",
        "label": label,
        "right_url": "https://example.com/b.jpg",
        "synset": "beer bottle",
        "query": "some beer bottles2",
        "identifier": identifier,
        **others,
    }


VOTES = {"56": "True", "43": "False"}
DEV = (
    line("dev-850-0-0", "True", extra_validations=VOTES),
    line("dev-850-3-0", "False", extra_validations=VOTES),
    line("dev-850-0-1", "False", extra_validations=VOTES),
)


def names(pair):
    return [f"{pair}-img{side}.png" for side in (0, 1)]


@pytest.mark.parametrize("inside", ["", "dev/"])
def test_a_table_of_nlvr2(tmp_path, write, draw, rows, capsys, inside):
    folder = draw(*(inside + name for pair in ("dev-850-0", "dev-850-3") for name in names(pair)))
    output, path = tmp_path / "out.jsonl", write(DEV, "dev.json")
    assert (
        cli.main(["data", "convert-annotations", str(path), str(output), "--images", str(folder)])
        == 0
    )
    assert capsys.readouterr().out == f"{output}: 2 pairs of images\n"
    assert rows(output) == [
        {
            "images": [str(folder / inside / name) for name in names("dev-850-0")],
            "image_id": "dev-850-0",
            "statements": ["Sentence 0.", "Sentence 1."],
            "truths": ["true", "false"],
            "identifiers": ["dev-850-0-0", "dev-850-0-1"],
        },
        {
            "images": [str(folder / inside / name) for name in names("dev-850-3")],
            "image_id": "dev-850-3",
            "statements": ["Sentence 0."],
            "truths": ["false"],
            "identifiers": ["dev-850-3-0"],
        },
    ]


@pytest.mark.parametrize("inside", ["", "65/", "train/65/"])
def test_images_of_training_lie_in_a_hundred_folders(tmp_path, write, draw, rows, inside):
    folder = draw(*(inside + name for name in names("train-10171-0")))
    path = write((line("train-10171-0-0", "True", directory=65),), "train.json")
    write_table([path], folder, tmp_path / "out.jsonl")
    (row,) = rows(tmp_path / "out.jsonl")
    assert row["images"] == [str(folder / inside / name) for name in names("train-10171-0")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((*DEV, DEV[0]), "1 id of statements is duplicated: dev-850-0-0"),
        ((DEV[0], line("dev-1-0-0", "Yes")), ":2: label is 'Yes'; it should be True or False"),
        ((DEV[0], line("850-0", "True")), ":2: identifier is '850-0'; it should look like dev-850"),
        ((DEV[0], {"identifier": "dev-1-0-0"}), ":2 needs identifier, sentence, label; it has id"),
        (DEV, r"3 files of pairs of images are missing: .*dev-850-0-img1\.png, .*dev-850-3-img0"),
    ],
)
def test_lines_that_are_wrong(tmp_path, write, draw, lines, message):
    folder = draw("dev-850-0-img0.png")
    with pytest.raises(UserError, match=message):
        write_table([write(lines)], folder, tmp_path / "out.jsonl")
