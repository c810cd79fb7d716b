"""MSR-VTT's files, in exactly their format."""

import pytest

from coca_jax import cli
from coca_jax.data_tools.annotations import write_table
from coca_jax.errors import UserError


def video(number, split, **others):
    return {
        "category": number,
        "url": "https://www.youtube.com/watch?v=9lZi22qLlEo",
        "video_id": f"video{number}",
        "start time": 137.72,
        "end time": 149.44,
        "split": split,
        "id": number,
        **others,
    }


def sentence(number, of, caption):
    return {"caption": caption, "video_id": f"video{of}", "sen_id": number}


MSR_VTT = {
    "info": {"contributor": "MSRA MSM Group", "version": "1.0", "year": "2016"},
    "videos": [video(9, "train"), video(3, "validate"), video(16, "train")],
    "sentences": [
        sentence(0, 16, "a car is shown"),
        sentence(1, 9, "a man sings"),
        sentence(2, 16, "a car drives"),
        sentence(3, 3, "people cook"),
    ],
}


def test_a_table_of_msr_vtt(tmp_path, write, draw, rows, capsys):
    folder, output = draw(), tmp_path / "out.jsonl"
    folder.mkdir()
    for number in (9, 16):
        (folder / f"video{number}.mp4").write_bytes(b"a film")
    words = [
        "data",
        "convert-annotations",
        str(write(MSR_VTT)),
        str(output),
        "--images",
        str(folder),
    ]
    assert cli.main([*words, "--split", "train"]) == 0
    assert capsys.readouterr().out == f"{output}: 2 videos\n"
    assert rows(output) == [
        {
            "video": str(folder / "video9.mp4"),
            "image_id": "video9",
            "captions": ["a man sings"],
            "label": 9,
        },
        {
            "video": str(folder / "video16.mp4"),
            "image_id": "video16",
            "captions": ["a car is shown", "a car drives"],
            "label": 16,
        },
    ]
    assert cli.main(words) == 2
    assert "1 file of videos is missing" in capsys.readouterr().err


VIDEOS, SENTENCES = MSR_VTT["videos"], MSR_VTT["sentences"]


@pytest.mark.parametrize(
    ("change", "split", "message"),
    [
        ({"videos": VIDEOS * 2}, "", "3 ids of `videos` are duplicated: video16, video3, video9"),
        (
            {"videos": VIDEOS[:2]},
            "",
            "1 id of videos has captions but no entry in `videos`: video16",
        ),
        ({"sentences": SENTENCES * 2}, "", "4 ids of `sentences` are duplicated: 0, 1, 2, 3"),
        ({"videos": [{"video_id": "video9"}]}, "", "number 0 of videos needs video_id, split; it"),
        ({"sentences": [{"caption": "a"}]}, "", "number 0 of sentences needs sen_id, video_id, ca"),
        ({"videos": {}}, "", "videos should be a list"),
        ({}, "test", "has no captions of split 'test'"),
    ],
)
def test_files_that_are_wrong(tmp_path, write, change, split, message):
    with pytest.raises(UserError, match=message):
        write_table([write(MSR_VTT | change)], tmp_path, tmp_path / "out.jsonl", split)
