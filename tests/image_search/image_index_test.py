import json
import os
import shutil

import numpy as np
import pytest

from coca_jax.errors import UserError
from coca_jax.image_search import image_index, nearest
from coca_jax.image_search.image_index import ImageIndex
from coca_jax.io.locks import locked


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for i in range(5):
        (folder / ("deep" if i % 2 else ".") / f"{i}.png").write_text(str(i))
    (folder / "notes.txt").write_text("no image")
    return folder


class Model:
    """Embeds a file of digits as that many degrees on a circle, and counts what it is asked."""

    def __init__(self):
        self.seen = []

    def __call__(self, paths):
        texts, errors = [], []
        for path in paths:
            text, error = path.read_text(), None
            if not text.isdigit():
                error = UserError("cannot be read as an image")
                error.__cause__ = PermissionError() if text == "secret" else None
            else:
                self.seen.append(path.name)
                texts.append(text)
            errors.append(error)
        turns = np.deg2rad(np.array(texts, float))
        return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32), errors


def names(matches):
    return [path.name for _, path in matches]


def direction(degrees):
    return np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], np.float32)


def test_what_is_new_changed_or_gone(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(image_index, "BATCH", 2)
    monkeypatch.setattr(nearest, "BLOCK", 2)
    model = Model()
    index = ImageIndex(tmp_path / "index", folder, "m")
    assert index.update(model) == {"added": 5, "kept": 0, "removed": 0}
    matches = index.search(direction(3.4), 3)
    assert names(matches) == ["3.png", "4.png", "2.png"]
    assert matches[0][0] == pytest.approx(np.cos(np.deg2rad(0.4)), abs=1e-6)

    (folder / "0.png").write_text("90")
    (folder / "2.png").unlink()
    (folder / "7.png").write_text("7")
    model.seen.clear()
    again = ImageIndex(tmp_path / "index", folder, "m")
    assert again.update(model) == {"added": 2, "kept": 3, "removed": 1}
    assert model.seen == ["0.png", "7.png"] and len(again) == 5
    assert names(again.search(direction(80), 9)) == ["0.png", "7.png", "4.png", "3.png", "1.png"]

    model.seen.clear()
    ImageIndex(tmp_path / "index", folder, "m").update(model)
    assert model.seen == []
    for other in ((folder, "another model"), (folder / "deep", "m")):
        ImageIndex(tmp_path / "index", *other).update(model)
        assert len(model.seen) in (5, 5 + 2)


def test_faiss_follows_the_images(folder, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    model = Model()
    index = ImageIndex(tmp_path / "index", folder, "m")
    index.update(model)
    assert index.search(direction(3.4), 3, "faiss") == index.search(direction(3.4), 3)
    (folder / "0.png").write_text("90")
    (folder / "2.png").unlink()
    (folder / "7.png").write_text("7")
    index.update(model)
    assert names(index.search(direction(80), 9, "faiss"))[:2] == ["0.png", "7.png"]
    again = ImageIndex(tmp_path / "index", folder, "m")
    assert names(again.search(direction(2), 9, "faiss"))[:2] == ["1.png", "3.png"]

    for i in range(5):  # the same rows, of another model: other vectors
        (folder / ("deep" if i % 2 else ".") / f"{i}.png").write_text(str(80 - i))
    (folder / "7.png").unlink()
    other = ImageIndex(tmp_path / "index", folder, "another")
    other.update(model)
    assert names(other.search(direction(90), 1, "faiss")) == ["0.png"]
    assert other.search(direction(90), 5, "faiss")[0][0] == pytest.approx(0.98481, abs=1e-5)


def test_files_that_are_no_images_are_named_and_passed_over(folder, tmp_path):
    (folder / "bad.png").write_text("<html>")
    model = Model()
    index = ImageIndex(tmp_path / "index", folder, "m")
    index.update(model)
    assert index.unreadable == ["bad.png"] and len(index) == 5
    assert len(index.search(direction(0), 9)) == 5
    again = ImageIndex(tmp_path / "index", folder, "m")
    assert again.update(model)["added"] == 0 and again.unreadable == ["bad.png"]


def test_files_that_could_not_be_opened_are_tried_again(folder, tmp_path):
    (folder / "locked.png").write_text("secret")
    index = ImageIndex(tmp_path / "index", folder, "m")
    assert index.update(Model())["added"] == 5 and index.unreadable == ["locked.png"]
    stamp = (folder / "locked.png").stat()
    (folder / "locked.png").write_text("123456")  # as long, and of the same time
    os.utime(folder / "locked.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    again = ImageIndex(tmp_path / "index", folder, "m")
    assert again.update(Model()) == {"added": 1, "kept": 5, "removed": 0}
    assert again.unreadable == [] and len(again) == 6


def test_what_is_listed(folder, tmp_path):
    for hidden in ("._1.png", ".x.jpg", "__MACOSX/1.png", ".ipynb_checkpoints/1.png", "Thumbs.db"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_text("1")
    odd = [b"\xff.PNG", b"two\nlines.jpeg", b"#%20[a]*?.webp"]
    for name in odd:
        with open(os.path.join(os.fsencode(folder), name), "w") as file:
            file.write("7")
    os.symlink(folder, folder / "deep" / "loop")
    os.symlink("nowhere", folder / "broken.png")
    os.symlink("loop.png", folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.png").write_text("9")
    os.symlink(tmp_path / "elsewhere", folder / "linked")
    images, unreadable, hidden = image_index.list_images(folder)
    plain = ["0.png", "2.png", "4.png", "deep/1.png", "deep/3.png", "linked/far.png"]
    assert sorted(images) == sorted([*plain, *map(os.fsdecode, odd)])
    assert unreadable == ["broken.png", "loop.png", "pipe.png"]
    names = [".ipynb_checkpoints", ".x.jpg", "._1.png", "Thumbs.db", "__MACOSX"]
    assert sorted(hidden) == sorted(names)
    index = ImageIndex(tmp_path / "index", folder, "m")
    index.update(Model())
    assert index.hidden == 5 and index.unreadable == unreadable
    assert ImageIndex(tmp_path / "index", folder, "m").update(Model())["kept"] == 9
    paths = [path for _, path in index.search(direction(7), 3)]
    assert {path.read_text() for path in paths} == {"7"}


def test_images_of_kinds_that_are_not_read_are_named(folder, tmp_path):
    for name in ("a.AVIF", "b.jfif", "c.ppm", "d.heic"):
        (folder / name).write_text("no image" if name == "d.heic" else "9")
    index = ImageIndex(tmp_path / "index", folder, "m")
    assert index.update(Model())["added"] == 8 and index.unreadable == ["d.heic"]


@pytest.mark.parametrize("url", ["gs://b/x", "s3:/b/x", "https://h/x"])
def test_only_local_folders_are_searched(url, folder, tmp_path, monkeypatch):
    for arguments in ((url, folder), (tmp_path / "index", url)):
        with pytest.raises(UserError, match=r"://.*/x: .* must be in local folders"):
            ImageIndex(*arguments, "m")
    monkeypatch.setenv("HOME", str(tmp_path))
    index = ImageIndex("~/index", f"file://{folder}", "m")
    assert index.update(Model())["added"] == 5 and (tmp_path / "index/index.json").exists()


def test_an_interrupted_update_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(image_index, "BATCH", 1)
    monkeypatch.setattr(image_index, "SAVE_EVERY", 2)
    model = Model()

    def stops(paths):
        if len(model.seen) == 3:
            raise KeyboardInterrupt
        return model(paths)

    with pytest.raises(KeyboardInterrupt):
        ImageIndex(tmp_path / "index", folder, "m").update(stops)
    model.seen.clear()
    index = ImageIndex(tmp_path / "index", folder, "m")
    assert index.update(model) == {"added": 3, "kept": 2, "removed": 0}
    assert names(index.search(direction(0), 5)) == [f"{i}.png" for i in range(5)]


def test_an_index_that_another_process_updates_can_be_read_but_not_updated(folder, tmp_path):
    model, place = Model(), tmp_path / "index"
    ImageIndex(place, folder, "m").update(model)
    with locked(place, "updated"):
        index = ImageIndex(place, folder, "m")
        assert index.update(model) == {"added": 0, "kept": 5, "removed": 0}
        assert names(index.search(direction(0), 1)) == ["0.png"]
        (folder / "7.png").write_text("7")
        with pytest.raises(UserError, match="index is being updated by process"):
            index.update(model)
        [table] = place.glob("*.f32")
        table.open("ab").write(bytes(8))  # by the other process
        assert names(ImageIndex(place, folder, "m").search(direction(0), 1)) == ["0.png"]
    assert table.stat().st_size == 6 * 8  # an opened index leaves them alone
    assert ImageIndex(place, folder, "m").update(model)["added"] == 1
    assert table.stat().st_size == 6 * 8


@pytest.mark.parametrize("searched", [False, True])
def test_an_open_index_answers_as_before(folder, tmp_path, searched):
    place, model = tmp_path / "index", Model()
    index = ImageIndex(place, folder, "m")
    index.update(model)
    opened = [index, ImageIndex(place, folder, "m")]
    before = index.search(direction(3.4), 3)
    if searched:
        assert opened[1].search(direction(3.4), 3) == before

    def reversed_model(paths):
        embeddings, errors = model(paths)
        return embeddings[::-1], errors

    other = ImageIndex(place, folder, "another model")
    other.update(reversed_model)
    assert names(other.search(direction(0), 1)) == ["3.png"]
    assert [index.search(direction(3.4), 3) for index in opened] == [before] * 2
    assert len([*place.glob("embeddings*")]) == 1
    shutil.rmtree(place)
    assert [index.search(direction(3.4), 3) for index in opened] == [before] * 2


@pytest.mark.parametrize("file", ["index.json", "embeddings-*.f32"])
def test_a_damaged_index_is_begun_anew(folder, tmp_path, file):
    model = Model()
    ImageIndex(tmp_path / "index", folder, "m").update(model)
    (tmp_path / "index" / "mine.txt").write_text("kept")
    [damaged] = (tmp_path / "index").glob(file)
    damaged.write_text("{")
    index = ImageIndex(tmp_path / "index", folder, "m")
    assert index.update(model)["added"] == 5
    assert names(index.search(direction(4), 1)) == ["4.png"]
    assert json.loads((tmp_path / "index/index.json").read_text())["rows"] == 5
    assert (tmp_path / "index/mine.txt").read_text() == "kept"


def test_a_folder_without_images(tmp_path):
    with pytest.raises(UserError, match="absent cannot be searched for images: No such file"):
        ImageIndex(tmp_path / "index", tmp_path / "absent", "m").update(Model())
    with pytest.raises(UserError, match="holds no images"):
        ImageIndex(tmp_path / "index", tmp_path, "m").update(Model())


def edits(content):
    """Contents that no search has written."""
    yield from (None, [], {}, 5)
    yield from (content | {key: value} for key in content for value in (None, "x", -1, [], 10**30))
    for entry in (None, [1, 2], [1, 2, "x"], [1, 2, 99], [1, 2, -7], [1.5, 2, 0], [True, 2, 0]):
        yield content | {"files": content["files"] | {"0.png": entry}}


def test_a_damaged_index_is_named_and_made_anew(folder, tmp_path, capsys):
    file = tmp_path / "index/index.json"
    ImageIndex(tmp_path / "index", folder, "m").update(Model())
    content = json.loads(file.read_text())
    contents = [json.dumps(edit).encode() for edit in edits(content)]
    for content in [b"", b"{", b"\xff", b"[" * 50_000, *contents]:
        file.write_bytes(content)
        index = ImageIndex(tmp_path / "index", folder, "m")
        assert index.update(Model())["added"] == 5
        assert names(index.search(direction(1), 1)) == ["1.png"]
    assert "index.json is empty; it is built again" in capsys.readouterr().err


def test_embeddings_that_were_cut_are_made_anew(folder, tmp_path, capsys):
    ImageIndex(tmp_path / "index", folder, "m").update(Model())
    [file] = (tmp_path / "index").glob("*.f32")
    file.write_bytes(file.read_bytes()[:-8])
    index = ImageIndex(tmp_path / "index", folder, "m")
    assert index.update(Model())["added"] == 5
    assert capsys.readouterr().err.count(f"index.json has more rows than {file.name}") == 1


def test_embeddings_of_another_length_are_refused(folder, tmp_path):
    index = ImageIndex(tmp_path / "index", folder, "m")
    index.update(Model())
    with pytest.raises(UserError, match="embeddings of 2 numbers, and the model makes 3"):
        index.search(np.ones(3, np.float32), 1)
