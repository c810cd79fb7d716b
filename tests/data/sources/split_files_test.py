import pytest

from coca_jax.data.sources.split_files import files_of_split
from coca_jax.errors import UserError


def folder(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def chosen(path, split):
    files, notes = files_of_split(path, split, "*.tar")
    return [file.removeprefix(f"{path}/") for file in files], [note.text for note in notes]


@pytest.mark.parametrize(
    ("names", "split", "files"),
    [
        (["b.tar", "a.TAR", "._a.tar", "a.txt"], "train", ["a.TAR", "b.tar"]),
        (["test/0.tar", "0.tar"], "test", ["test/0.tar"]),
        (["test/0.tar", "0.tar"], "train", ["0.tar"]),
        (["test-0.tar", "train-0.tar"], "", ["test-0.tar", "train-0.tar"]),
        (["train-0.tar", "train.1.tar"], "train", ["train-0.tar", "train.1.tar"]),
        (["trains.tar", "testimony.tar"], "train", ["testimony.tar", "trains.tar"]),
        (["data/a.tar", "README.md"], "train", ["data/a.tar"]),
        (["data/test/a.tar", "data/train/b.tar"], "test", ["data/test/a.tar"]),
        (["train/a.jpg", "0.tar"], "train", ["0.tar"]),
    ],
)
def test_files_of_a_folder(tmp_path, names, split, files):
    assert chosen(folder(tmp_path, *names), split) == (files, [])


def test_files_that_are_named_by_splits(tmp_path):
    names = ["test-00000-of-00001.tar", "Test_novel.tar", "train-0.tar", "val.tar"]
    path = folder(tmp_path / "x[1]", *names)
    files, (note,) = chosen(path, "train")
    assert files == ["train-0.tar"]
    assert note == f"{path}: the files with 'train' in their names are read, and 3 others are not"
    assert chosen(path, "test")[0] == ["Test_novel.tar", "test-00000-of-00001.tar"]
    for split in ("dev", "train[:50%]"):
        with pytest.raises(UserError, match=r"has files of test, train, val, .* none of split="):
            chosen(path, split)


@pytest.mark.parametrize(
    "form", ["{}-0.tar", "cc3m-{}-0.tar", "mine_{}.tar", "{}0001.tar", "a-{}.b-00000-of-00001.tar"]
)
def test_a_split_is_a_word_of_a_name(tmp_path, form):
    path = folder(tmp_path, form.format("train"), form.format("validation"))
    assert chosen(path, "train")[0] == [form.format("train")]
    with pytest.raises(UserError, match=r"has files of train, validation, .* none of split='test'"):
        chosen(path, "test")


def test_a_folder_without_such_files_is_refused(tmp_path):
    path = folder(tmp_path, "a.parquet")
    with pytest.raises(UserError, match=r"no \.tar files, and no folder 'test' of them; it"):
        chosen(path, "test")
    with pytest.raises(UserError, match=r"no \.tar files; it holds a\.parquet; \.parq.* are"):
        chosen(path, "")
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=r"no \.tar files; it holds a\.parquet, data"):
        chosen(path, "")
    with pytest.raises(UserError, match=r"data holds no \.tar files; it is empty"):
        chosen(str(tmp_path / "data"), "")


def test_patterns_and_lists_are_taken_as_they_are(tmp_path):
    path = folder(tmp_path, "test-0.tar", "train-0.tar")
    files = [f"{path}/test-0.tar", f"{path}/train-0.tar"]
    for given in (f"{path}/*.tar", files):
        assert files_of_split(given, "test", "*.tar") == (files, [])
