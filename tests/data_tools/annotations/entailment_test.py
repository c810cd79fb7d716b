"""SNLI-VE's files, in exactly their format."""

import pytest

from coca_jax import cli
from coca_jax.data.sources import SourceConfig, open_source
from coca_jax.data_tools.annotations import write_table
from coca_jax.errors import UserError


def line(image, n, hypothesis, label, **changes):
    """As the published generator writes them: SNLI's own fields, sorted, and Flickr30K_ID."""
    row = {
        "Flickr30K_ID": image,
        "annotator_labels": [label, "neutral"],
        "captionID": f"{image}.jpg#{n}",
        "gold_label": label,
        "pairID": f"{image}.jpg#{n}r1e",
        "sentence1": "Two women are embracing.",
        "sentence1_binary_parse": "( ( Two women ) ( ( are embracing ) . ) )",
        "sentence1_parse": "(ROOT (S (NP (CD Two) (NNS women)) ...))",
        "sentence2": hypothesis,
        "sentence2_binary_parse": "( ... )",
        "sentence2_parse": "(ROOT ...)",
    }
    return {key: value for key, value in (row | changes).items() if value is not None}


LINES = (
    line("4705552913", 0, "The women are asleep.", "contradiction"),
    line("36979", 0, "Nobody is there.", "contradiction"),
    line("4705552913", 1, "Two women hug.", "entailment"),
    line("4705552913", 2, "They are sisters.", "neutral"),
    line("4705552913", 3, "They are tall.", "-"),
)


def test_a_table_of_snli_ve(tmp_path, write, draw, rows, capsys):
    folder, output = draw("4705552913.jpg", "36979.jpg"), tmp_path / "out.jsonl"
    path = write(LINES, "snli_ve_dev.jsonl")
    assert (
        cli.main(["data", "convert-annotations", str(path), str(output), "--images", str(folder)])
        == 0
    )
    printed = capsys.readouterr().out
    assert printed == f"{output}: 2 images (1 pair without a gold label left out)\n"
    assert rows(output) == [
        {
            "image": str(folder / "4705552913.jpg"),
            "image_id": "4705552913",
            "hypotheses": ["The women are asleep.", "Two women hug.", "They are sisters."],
            "judgements": ["contradiction", "entailment", "neutral"],
            "pair_ids": [f"4705552913.jpg#{n}r1e" for n in (0, 1, 2)],
        },
        {
            "image": str(folder / "36979.jpg"),
            "image_id": "36979",
            "hypotheses": ["Nobody is there."],
            "judgements": ["contradiction"],
            "pair_ids": ["36979.jpg#0r1e"],
        },
    ]
    source = open_source(SourceConfig(format="folder", path=str(output)))
    assert source[1]["fields"]["judgements"] == ["contradiction"]


def test_a_file_of_one_line_with_the_older_name_of_the_image(tmp_path, write, draw):
    old = line("7", 0, "They hug.", "neutral", Flickr30K_ID=None, Flikr30kID="7")
    written = write_table([write((old,))], draw("7.jpg"), tmp_path / "out.jsonl")
    assert written == (1, "images", "")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((*LINES, LINES[0]), r"1 id of pairs is duplicated: 4705552913\.jpg#0r1e"),
        (
            (LINES[0], line("1", 0, "a", "maybe")),
            r"file\.json:2: gold_label is 'maybe'; it should be one of entailment, neutral, ",
        ),
        (
            (LINES[0], line("1", 0, "a", None)),
            r"file\.json:2 needs Flickr30K_ID, pairID, sentence2, gold_label; it has Flickr30K_ID,",
        ),
        ((LINES[0], line("1", 0, 5, "neutral")), ":2: sentence2 should be a text; it is 5"),
        ((LINES[0], [1]), r":2 needs Flickr30K_ID, .*; it has \[1\]"),
        (LINES[4:], "has no hypothesis with a gold label"),
        (LINES[:2], r"1 file of images is missing: .*36979\.jpg"),
    ],
)
def test_lines_that_are_wrong(tmp_path, write, draw, lines, message):
    folder = draw("4705552913.jpg")
    with pytest.raises(UserError, match=message):
        write_table([write(lines)], folder, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_line_that_is_no_json(tmp_path, write):
    path = write(LINES[:2])
    path.write_text(path.read_text() + "\n{'a': 1}\n")
    with pytest.raises(UserError, match=r"file\.json:4 is not JSON"):
        write_table([path], tmp_path, tmp_path / "out.jsonl")
    path.write_bytes(path.read_bytes()[:-12] + b"\xff\n")
    with pytest.raises(UserError, match=r"is not UTF-8|cannot be read"):
        write_table([path], tmp_path, tmp_path / "out.jsonl")
