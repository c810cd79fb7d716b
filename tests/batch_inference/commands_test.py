"""The commands on tars with a small model, one device, against the model's own methods."""

import io
import json
import tarfile

import cv2
import jax
import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

import coca_jax
from coca_jax import cli
from coca_jax.data.transforms import images

COLORS = ((250, 20, 20), (20, 250, 20), (20, 20, 250), (200, 200, 20), (20, 200, 200))


def picture(color):
    canvas = np.full((48, 40, 3), color, np.uint8)
    canvas[10:30, 8:20] = 255 - np.array(color)
    return cv2.imencode(".png", canvas)[1].tobytes()


@pytest.fixture(scope="module")
def model(small_run):
    """The model's workdir; commands load it on one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        yield coca_jax.load(small_run), str(small_run)


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """Two tars; one sample of the second has no image that can be decoded, and no caption."""
    folder = tmp_path_factory.mktemp("tars")
    for shard, samples in enumerate((COLORS[:3], (*COLORS[3:], None))):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for i, color in enumerate(samples):
                png = picture(color) if color else b"\x89PNG cut"
                parts = {"png": png, "txt": b"a red circle", "json": b'{"url": "u%d"}' % i}
                for ending, body in parts.items():
                    info = tarfile.TarInfo(f"{shard:05}{i:04}.{ending}")
                    info.size = len(body)
                    tar.addfile(info, io.BytesIO(body))
    return folder


def pixels_of(model, colors):
    size = model.config.image.pixels
    return np.stack([images.resize_for_evaluation(images.decode(picture(c)), size) for c in colors])


def test_captions_of_a_data_set(model, tars, tmp_path, capsys):
    loaded, workdir = model
    words = ["--model", workdir, "--data", str(tars), "--output", str(tmp_path / "out")]
    assert cli.main(["caption", *words, "--keep", "--length", "8", "--beams", "2"]) == 5
    printed = capsys.readouterr()
    assert "5 results in 2 files" in printed.out
    assert "00001.tar, record 2 (000010002): bad_image" in printed.err
    assert "1 of 6 records have no result" in printed.err
    rows = pq.read_table(tmp_path / "out").to_pylist()
    keys = ["000000000", "000000001", "000000002", "000010000", "000010001"]
    assert [row["key"] for row in rows] == keys
    expected = loaded.caption(pixels_of(loaded, COLORS), "beam", beams=2, length=8)
    assert [row["caption"] for row in rows] == [caption.text for caption in expected]
    np.testing.assert_allclose(
        [row["log_probability"] for row in rows],
        [caption.log_probability for caption in expected],
        rtol=1e-4,
    )
    assert json.loads(rows[1]["stored"]) == {"captions": ["a red circle"], "url": "u1"}
    # Again: nothing is computed, and the exit code still says what is missing.
    assert cli.main(["caption", *words, "--keep", "--length", "8", "--beams", "2"]) == 5
    assert "2 of 2 files are there already" in capsys.readouterr().err
    assert cli.main(["caption", *words, "--keep", "--length", "9"]) == 2
    assert "options: {'method': 'beam'" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_embeddings_by_two_shards_of_a_job(model, tars, tmp_path, dtype, capsys):
    loaded, workdir = model
    out = tmp_path / "out"
    words = ["embed", "--model", workdir, "--data", f"{tars}/*.tar", "--output", str(out)]
    for k in (1, 2):
        assert cli.main([*words, "--dtype", dtype, "--shard", f"{k}/2"]) == (0 if k == 1 else 5)
    assert "5 results" not in capsys.readouterr().out  # each has its own file
    table = pq.read_table(out)
    half = dtype == "float16"
    numbers = pyarrow.float16() if half else pyarrow.float32()
    assert table.schema.field("embedding").type.value_type == numbers
    expected = loaded.encode_image(pixels_of(loaded, COLORS))
    np.testing.assert_allclose(
        np.stack(table["embedding"].to_pylist()),
        expected,
        atol=2e-3 if dtype == "float16" else 1e-5,
    )


def test_embeddings_as_npy_with_ids(model, tars, tmp_path):
    loaded, workdir = model
    words = ["--model", workdir, "--data", f"{tars}/00000.tar", "--output", str(tmp_path / "out")]
    assert cli.main(["embed", *words, "--format", "npy"]) == 0
    embeddings = np.load(tmp_path / "out/00000.npy")
    np.testing.assert_allclose(
        embeddings, loaded.encode_image(pixels_of(loaded, COLORS[:3])), atol=1e-5
    )
    lines = (tmp_path / "out/00000.ids.jsonl").read_text().splitlines()
    assert json.loads(lines[2]) == {"key": "000000002", "source": "00000.tar", "index": 2}


@pytest.mark.parametrize("command", ["caption", "score-pairs"])
def test_arrays_are_for_embeddings(command, capsys):
    words = ["--model", "m", "--data", "a.tar", "--output", "out", "--format", "npy"]
    with pytest.raises(SystemExit) as caught:
        cli.main([command, *words])
    assert caught.value.code == 2 and "invalid choice: 'npy'" in capsys.readouterr().err


def test_a_folder_that_a_link_names_is_needed(model, tars, tmp_path, capsys):
    (tmp_path / "link").symlink_to("nowhere")
    words = ["--model", model[1], "--data", str(tars), "--output", str(tmp_path / "link")]
    assert cli.main(["embed", *words]) == 2
    assert "link is a link to nowhere, which is not there" in capsys.readouterr().err


def test_similarities_of_pairs(model, tars, tmp_path):
    loaded, workdir = model
    words = ["--model", workdir, "--data", f"{tars}/00000.tar", "--output", str(tmp_path / "out")]
    assert cli.main(["score-pairs", *words, "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/00000.jsonl").read_text().splitlines()]
    text = loaded.encode_text(loaded.tokenize(["a red circle"]))[0]
    expected = loaded.encode_image(pixels_of(loaded, COLORS[:3])) @ text
    np.testing.assert_allclose([row["similarity"] for row in rows], expected, atol=1e-5)
    assert [row["similarities"] for row in rows] == [[row["similarity"]] for row in rows]


@pytest.mark.parametrize(
    "words, message",
    [
        (["caption"], "either image files, or --data and --output"),
        (["caption", "a.png", "--data", "x", "--output", "y"], "either image files, or --data"),
        (["caption", "--data", "x"], "--data needs --output"),
        (["embed", "--data", "/nowhere", "--output", "out"], "there is no such file or folder"),
        (["embed", "--data", "/nowhere/*.tar", "--output", "out"], "no file matches"),
        (["embed", "--data", "/nowhere", "--output", __file__], "is a file"),
    ],
)
def test_calls_that_make_no_sense(model, words, message, capsys):
    assert cli.main([*words, "--model", model[1]]) == 2
    assert message in capsys.readouterr().err


def test_searching_embeddings_by_text_and_by_image(model, tars, tmp_path, capsys, monkeypatch):
    loaded, workdir = model
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out, query = str(tmp_path / "out"), tmp_path / "query.png"
    words = ["--model", workdir, "--data", f"{tars}/*.tar", "--output", out]
    assert cli.main(["embed", *words]) == 5
    query.write_bytes(picture(COLORS[3]))
    search = ["search", "--model", workdir, "--embeddings", out, "--top", "2"]
    capsys.readouterr()
    assert cli.main([*search, "--image", str(query)]) == 0
    best, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert (best["key"], best["source"], best["index"]) == ("000010000", "00001.tar", 0)
    assert best["similarity"] == pytest.approx(1, abs=1e-5)
    assert cli.main([*search, "a red circle"]) == 0
    text = loaded.encode_text(loaded.tokenize(["a red circle"]))[0]
    similarities = np.sort(loaded.encode_image(pixels_of(loaded, COLORS)) @ text)[::-1]
    found = [json.loads(line)["similarity"] for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(found, similarities[:2], atol=1e-5)
    assert cli.main(search) == 2
    assert "either a text to search for, or --image" in capsys.readouterr().err
