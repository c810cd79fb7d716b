import concurrent.futures
import io
import json
import os
import tarfile

import pytest

from coca_jax.data.errors import BadExample
from coca_jax.data.sources import Source, SourceConfig, open_source, tar_index
from coca_jax.data.sources.webdataset import stated_name, webdataset_source
from coca_jax.errors import UserError
from coca_jax.io import files

IMAGE = b"\xff\xd8 no real picture \xff\xd9"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path, *samples):
    """Writes samples, each a dictionary of extensions and bytes."""
    with tarfile.open(path, "w") as tar:
        for i, sample in enumerate(samples):
            for extension, body in sample.items():
                info = tarfile.TarInfo(f"{i:05}.{extension}")
                info.size, info.mtime = len(body), 1.7e9 + i / 3
                tar.addfile(info, io.BytesIO(body))
    return str(path)


def read_one(path, sample):
    return webdataset_source(write(path, sample))[0]


def test_a_record_has_all_parts_of_a_sample(tmp_path):
    fields = {"caption": "from JSON", "width": 3, "punsafe": 0.5, "exif": None}
    sample = {"jpg": IMAGE, "json": json.dumps(fields).encode(), "txt": "ein Kätzchen\n".encode()}
    assert read_one(tmp_path / "a.tar", sample) == {
        "key": "00000",
        "image": IMAGE,
        "captions": ["ein Kätzchen"],
        "label": -1,
        "labels": [],
        "fields": fields,
    }


@pytest.mark.parametrize(
    "fields, captions",
    [
        ({"caption": "one"}, ["one"]),
        ({"captions": ["one", "two"]}, ["one", "two"]),
        ({"text": "one", "caption": None}, ["one"]),
        ({"caption": 3}, []),
        ({"title": "none"}, []),
        ({"caption": float("nan"), "txt": "one"}, ["one"]),
        ({"caption": {"en": "one"}}, []),
        ({"caption": ["one", True]}, ["one", ""]),
    ],
)
def test_captions_are_in_the_json_where_there_is_no_text(tmp_path, fields, captions):
    sample = {"webp": IMAGE, "json": json.dumps(fields).encode()}
    record = read_one(tmp_path / "a.tar", sample)
    assert record["captions"] == captions and [*record["fields"]] == [*fields]
    is_bad = isinstance(fields.get("caption"), (int, dict, list))
    assert bool(record.get("no_text")) == is_bad


@pytest.mark.parametrize(
    "cls, label, labels",
    [
        (b"1", 1, ["dog"]),
        (b" 0\n", 0, ["cat"]),
        (b"1.0", 1, ["dog"]),
        (b"-1", -1, []),
        (b"zebra\n", -1, ["zebra"]),
        (b"", -1, []),
    ],
)
def test_classes_are_numbers_or_names(tmp_path, cls, label, labels):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    path = write(tmp_path / "a.tar", {"png": IMAGE, "cls": cls})
    names = str(tmp_path / "names.txt")
    source = open_source(SourceConfig(format="webdataset", path=path, class_names=names))
    record = source[0]
    assert (record["label"], record["labels"], record["captions"]) == (label, labels, [])


@pytest.mark.parametrize(
    "damaged, kind",
    [
        ({"txt": b"caf\xe9"}, "bad_text"),
        ({"cls": b"\xff"}, "bad_text"),
        *(({"cls": text}, "bad_record") for text in (b"9" * 30, b"9" * 5000, b"-3", b"0.5")),
        *(({"cls": text}, "bad_record") for text in (b"NaN", b"-inf", b"1e400", b"2147483648")),
        ({"json": b"{"}, "bad_record"),
        ({"json": b'{"caption": "caf\xe9"}'}, "bad_record"),
        ({"json": b"[1]"}, "bad_record"),
        ({"json": b""}, "bad_record"),
        ({"json": b"[" * 100_000}, "bad_record"),
    ],
)
def test_damaged_samples_say_how(tmp_path, damaged, kind):
    with pytest.raises(BadExample) as caught:
        read_one(tmp_path / "a.tar", {"jpg": IMAGE} | damaged)
    assert caught.value.kind == kind


def test_shards_follow_each_other(tmp_path):
    for i, count in enumerate((2, 0, 3)):
        write(
            tmp_path / f"{i}.tar", *[{"jpg": IMAGE, "txt": b"%d %d" % (i, k)} for k in range(count)]
        )
    source = webdataset_source(str(tmp_path / "{0..2}.tar"))
    assert isinstance(source, Source) and len(source) == 5 and source.class_names == []
    assert [record["captions"][0] for record in source] == ["0 0", "0 1", "2 0", "2 1", "2 2"]
    assert [os.path.basename(source.shard(i)) for i in (0, 1, 2, 4)] == ["0.tar"] * 2 + [
        "2.tar"
    ] * 2
    for index in (-1, 5):
        with pytest.raises(IndexError):
            source[index]
        with pytest.raises(IndexError):
            source.shard(index)


def test_samples_without_an_image_are_left_out_and_counted(tmp_path):
    failed = {"json": b'{"status": "failed_to_download"}'}
    path = write(tmp_path / "a.tar", failed, {"jpg": IMAGE}, failed)
    source = webdataset_source(path)
    assert len(source) == 1
    note = source.notes[0]
    assert (note.kind, note.count, note.lost) == ("without_image", 2, True)
    write(path, failed)
    with pytest.raises(UserError, match=r"no sample of .*a.tar has an image .*\n1 sample has no"):
        webdataset_source(path)


def test_torn_tars_are_known(tmp_path):
    path = write(tmp_path / "a.tar", {"jpg": IMAGE}, {"jpg": IMAGE * 200})
    os.truncate(path, 5000)
    source = webdataset_source(path)
    assert len(source) == 1
    note = source.notes[0]
    assert (note.kind, note.count, note.lost) == ("cut_off", 1, True) and path in note.text


def test_a_sample_is_one_request(tmp_path, monkeypatch):
    parts = {"json": b"{}", "jpg": IMAGE * 1000, "txt": b"text", "cls": b"5"}
    path = write(tmp_path / "a.tar", parts, {"jpg": IMAGE, "npy": bytes(400_000), "txt": b"far"})
    source = webdataset_source(path)
    asked, plain = [], files.read_range
    monkeypatch.setattr(files, "read_range", lambda *a: asked.append(a[0]) or plain(*a))
    record = source[0]
    assert record["image"] == IMAGE * 1000 and record["captions"] == ["text"]
    assert asked.count(path) == 1
    asked.clear()
    assert source[1]["captions"] == ["far"] and source[1]["image"] == IMAGE
    assert asked.count(path) == 4  # the big thing between them is not read


def test_threads_read_at_once(tmp_path):
    paths = [
        write(tmp_path / f"{i}.tar", *[{"jpg": IMAGE, "txt": b"%d %d" % (i, k)} for k in range(20)])
        for i in range(5)
    ]
    source = webdataset_source(paths)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        records = list(pool.map(source.__getitem__, list(range(100)) * 3))
    assert [record["captions"] for record in records[200:]] == [
        [f"{i} {k}"] for i in range(5) for k in range(20)
    ]


def test_a_shard_that_is_gone_or_cut_since_raises(tmp_path):
    paths = [write(tmp_path / f"{i}.tar", {"jpg": IMAGE}) for i in range(3)]
    source = webdataset_source(paths)
    os.remove(paths[0])
    os.truncate(paths[1], 600)
    with pytest.raises(FileNotFoundError):
        source[0]
    with pytest.raises(EOFError):
        source[1]
    assert source[2]["image"] == IMAGE


def test_shards_may_be_behind_urls(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for i in range(2):
        path = write(tmp_path / "a.tar", {"jpg": IMAGE, "txt": b"%d" % i})
        with (
            memory.open(f"memory://{tmp_path.name}/{i}.tar", "wb") as file,
            open(path, "rb") as tar,
        ):
            file.write(tar.read())
    source = webdataset_source(f"memory://{tmp_path.name}/*.tar", str(tmp_path / "indices"))
    assert [record["captions"] for record in source] == [["0"], ["1"]]
    assert len(os.listdir(tmp_path / "indices")) == 2
    assert source.shard(1).endswith("/1.tar")


def test_a_folder_of_splits_with_names_of_classes(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        (tmp_path / "x[1]" / split).mkdir(parents=True)
        for shard in range(2):
            samples = [{"webp": IMAGE, "cls": b"1"}] * count
            write(tmp_path / "x[1]" / split / f"{shard}.tar", *samples)
    (tmp_path / "x[1]/classnames.txt").write_text("cat\nbig dog\n")
    section = {"format": "webdataset", "path": str(tmp_path / "x[1]"), "split": "test"}
    source = open_source(SourceConfig.of(section))
    assert len(source) == 4 and source.class_names == ["cat", "big dog"]
    assert source[3]["label"] == 1 and source[3]["labels"] == ["big dog"]
    assert len(open_source(SourceConfig.of(section | {"split": "train"}))) == 6
    with pytest.raises(UserError, match=r"no folder 'val' of them; it holds classnames\.txt, test"):
        open_source(SourceConfig.of(section | {"split": "val"}))
    (tmp_path / "x[1]/val").mkdir()
    with pytest.raises(UserError, match=r"no folder 'val' of them; it holds .*, val"):
        open_source(SourceConfig.of(section | {"split": "val"}))


def test_a_folder_of_tars(tmp_path):
    for name in ("b", "a", "._a"):
        write(tmp_path / f"{name}.tar", {"jpg": IMAGE, "txt": name.encode()})
    source = open_source(SourceConfig(format="webdataset", path=str(tmp_path), split="train"))
    assert [record["captions"] for record in source] == [["a"], ["b"]]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"holds a\.parquet; .* are made into records by"):
        open_source(SourceConfig(format="webdataset", path=str(tmp_path / "b"), split="train"))


def test_a_split_of_tars_in_one_folder(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}-0.tar", {"jpg": IMAGE, "txt": split.encode()})
    source = open_source(SourceConfig(format="webdataset", path=str(tmp_path), split="test"))
    assert [record["captions"] for record in source] == [["test"]]
    assert [note.kind for note in source.notes] == ["split"]


def test_retrieval_data_have_a_caption_in_each_line(tmp_path):
    text = "a cat\nein\u2028Kätzchen \r\n\na\x85pet\n"
    captions = {"jpg": IMAGE, "txt": text.encode()}
    (tmp_path / "x/test").mkdir(parents=True)
    write(tmp_path / "x/test/0.tar", captions)
    (tmp_path / "x/dataset_type.txt").write_text("retrieval\n")
    section = {"format": "webdataset", "path": str(tmp_path / "x"), "split": "test"}
    assert open_source(SourceConfig.of(section))[0]["captions"] == [
        "a cat",
        "ein\u2028Kätzchen",
        "a\x85pet",
    ]
    (tmp_path / "x/dataset_type.txt").write_text("multilabel\n")
    with pytest.raises(
        UserError, match=r"dataset_type\.txt says 'multilabel'; it should be retrieval or"
    ):
        open_source(SourceConfig.of(section))
    (tmp_path / "x/dataset_type.txt").unlink()
    assert len(open_source(SourceConfig.of(section))[0]["captions"]) == 1


def test_another_number_of_classes_than_the_data_have(tmp_path):
    (tmp_path / "x").mkdir()
    write(tmp_path / "x/0.tar", {"jpg": IMAGE, "cls": b"0"})
    (tmp_path / "x/classnames.txt").write_text("cat\ndog\n")
    (tmp_path / "renamed.txt").write_text("a cat\na dog\n")
    (tmp_path / "short.txt").write_text("cat\n")
    section = {"format": "webdataset", "path": str(tmp_path / "x")}
    renamed = open_source(SourceConfig.of(section | {"class_names": str(tmp_path / "renamed.txt")}))
    assert renamed.class_names == ["a cat", "a dog"]
    with pytest.raises(UserError, match=r"short.txt names 1 class, .* has 2: cat, dog$"):
        open_source(SourceConfig.of(section | {"class_names": str(tmp_path / "short.txt")}))


def pack(path, *members, **options):
    """Writes members with their names as their content; some with another type."""
    with tarfile.open(path, "w", **options) as tar:
        for member in members:
            name, kind = member if isinstance(member, tuple) else (member, tarfile.REGTYPE)
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "0.jpg"
            info.size = len(os.fsencode(name)) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(os.fsencode(name)))
    return str(path)


def content(source):
    return [(record["image"].decode(), *record["captions"]) for record in source]


PAIR = ("0.jpg", "0.txt")
KEYS = ("jpg", "v2.jpg")
LNK, SYM, DIR, FIFO = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE


@pytest.mark.parametrize(
    "members, records, notes, words",
    [
        (PAIR, [PAIR], {}, ""),
        (("0.JPG", "0.TXT", "1.Jpeg"), [("0.JPG", "0.TXT"), ("1.Jpeg",)], {"without_text": 1}, "1"),
        (("0.gif", "1.bmp"), [("0.gif",), ("1.bmp",)], {"without_text": 2}, ""),
        (
            ("0.input.jpg", "0.txt", "1.v2.jpg", "1.txt", "2.jpg", "2.txt"),
            [("2.jpg", "2.txt")],
            {"without_image": 2},
            "such as 0 of {tar}, but .txt (2), .input.jpg (1), .v2.jpg (1); the key of a sample is "
            "the path of its members up to the first dot of the file's name, and what follows is "
            "the extension. To read them, set image_keys=('jpg', 'jpeg', 'input.jpg', 'v2.jpg')",
        ),
        (("i/0.jpg", "t/0.txt"), [("i/0.jpg",)], {"without_image": 1, "without_text": 1}, "t/0 of"),
        (("0.jpg", "0.caption"), [("0.jpg",)], {"without_text": 1}, "but .caption (1)"),
        # A name twice in a sample: as tar unpacks it.
        ((*PAIR, *PAIR), [PAIR], {"duplicate": 2}, "such as 0.jpg of {tar}: the last one is read"),
        # A key again after other samples: as WebDataset reads it.
        ((*PAIR, "1.png", "1.txt", *PAIR), [PAIR, ("1.png", "1.txt"), PAIR], {"repeated": 1}, "0"),
        (("0.jpg", "1.jpg", "0.txt", "1.txt"), [PAIR, ("1.jpg", "1.txt")], {"apart": 2}, "as 0 of"),
        (("0.txt", "1.txt", "0.jpg", "1.jpg"), [PAIR, ("1.jpg", "1.txt")], {"apart": 2}, "as 0 of"),
        (("./0.jpg", "1.jpg", "0.txt", "/1.txt"), [("./0.jpg", "0.txt"), ("1.jpg", "/1.txt")],
         {"apart": 2}, ""),
        (("0.png", *PAIR, "0.webp"), [PAIR], {"several": 2}, "first kind of jpg, jpeg, png"),
        (("._0.jpg", "0.jpg", "._0.txt", "0.txt"), [PAIR], {"hidden": 2}, "._0.jpg"),
        (("__MACOSX/0.jpg", ".x/0.jpg", "Thumbs.db", *PAIR), [PAIR], {"hidden": 3}, "__MACOSX/0.j"),
        (("README", "x/000", *PAIR), [PAIR], {"no_extension": 2}, "README"),
        ((*PAIR, ("1.jpg", LNK), ("1.txt", SYM)), [PAIR], {"link": 2, "without_image": 1}, "1.jpg"),
        ((*PAIR, ("x.jpg", DIR), ("1.jpg", FIFO)), [PAIR], {"special": 1, "without_image": 1}, ""),
    ],
)  # fmt: skip
def test_what_is_in_a_tar_is_read_or_noted(tmp_path, members, records, notes, words):
    path = pack(tmp_path / "a.tar", *members)
    for _ in range(2):  # found, and known from the index
        source = webdataset_source(path)
        assert content(source) == records
        assert {note.kind: note.count for note in source.notes} == notes
        assert words.format(tar=path) in "\n".join(note.text for note in source.notes)
    harmless = {"without_text", "repeated", "apart", "hidden", "no_extension"}
    assert {note.kind for note in source.notes if not note.lost} == notes.keys() & harmless


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_keys_are_of_names_in_any_format(tmp_path, form):
    names = ["猫.jpg", "犬.jpg", "é/0.jpg", "x/" * 60 + "猫.v2.jpg", "0.jpg", "x" * 105 + ".jpg"]
    source = webdataset_source(pack(tmp_path / "a.tar", *names, format=form), image_keys=KEYS)
    assert [record.get("key") for record in source] == [name.partition(".")[0] for name in names]
    # A header with the whole name is far away; the ? of pax is perhaps of another character.
    odd = ["?.jpg", "é" * 300 + ".jpg"]
    source = webdataset_source(pack(tmp_path / "b.tar", *odd, format=form))
    assert ["key" in record for record in source] == [form == tarfile.GNU_FORMAT, False]


def test_a_name_in_the_blocks_before_a_body():
    info = tarfile.TarInfo("a?.jpg")
    assert stated_name(info.tobuf(tarfile.USTAR_FORMAT)) == b""  # perhaps another character
    assert stated_name(info.tobuf(tarfile.GNU_FORMAT)) == b"a?.jpg"
    info.mtime = 0.5
    pax = info.tobuf(tarfile.PAX_FORMAT)  # which states a time, and no other name
    assert stated_name(pax) == b"a?.jpg"
    assert stated_name(pax[:512] + b"x" * 512 + pax[1024:]) == b""
    info.name = "a.jpg"
    assert stated_name(info.tobuf()) == stated_name(bytes(1024) + info.tobuf()) == b"a.jpg"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_odd_names_are_noted_in_any_format(tmp_path, form):
    names = [os.fsdecode(b"\xff/\xe9.jpg"), "x/" * 90 + "é" * 90 + ".jpg", "a\n.jpg"]
    source = webdataset_source(pack(tmp_path / "a.tar", *names, format=form))
    assert [os.fsdecode(record["image"]) for record in source] == names
    assert source.notes[0].text.encode() and r"\xff/\xe9" in source.notes[0].text


def test_images_and_texts_may_have_other_keys(tmp_path):
    members = ("0.input.jpg", "0.jpg", "0.en.txt", "1.v2.jpg", "1.txt", "1.en.txt", "2.png")
    path = pack(tmp_path / "a.tar", *members)
    section = {"format": "webdataset", "path": path}
    keys = {"image_keys": ("input.jpg", ".V2.jpg"), "text_keys": ["en.txt", "txt"]}
    for _ in range(2):  # each has an index of its own
        source = open_source(SourceConfig.of(section | keys))
        assert content(source) == [("0.input.jpg", "0.en.txt"), ("1.v2.jpg", "1.en.txt")]
        assert {n.kind: n.count for n in source.notes} == {"without_image": 1, "several": 1}
        assert content(open_source(SourceConfig.of(section))) == [("0.jpg",), ("2.png",)]


def test_notes_name_the_keys_that_are_read(tmp_path):
    path = pack(tmp_path / "a.tar", "0.input.jpg", "0.edit.jpg", "1.jpg", "2.edit.jpg", "2.txt")
    options = {"image_keys": ("input.jpg", ".edit.jpg"), "text_keys": ("en.txt",)}
    source = webdataset_source(path, **options)
    notes = {note.kind: note.text for note in source.notes}
    assert "the first kind of input.jpg, edit.jpg is read" in notes["several"]
    assert "samples have no .en.txt, .json or .cls" in notes["without_text"]
    assert "set image_keys=('input.jpg', '.edit.jpg', 'jpg') of" in notes["without_image"]


def test_links_are_not_said_to_have_other_keys(tmp_path):
    path = pack(tmp_path / "a.tar", *PAIR, ("1.jpg", LNK), "1.txt")
    notes = {note.kind: note.text for note in webdataset_source(path).notes}
    assert "dereference" in notes["link"] and "image_keys" not in notes["without_image"]


def test_tars_that_were_joined_are_read_to_the_end(tmp_path):
    one, two, joined = (tmp_path / f"{name}.tar" for name in ("1", "2", "joined"))
    pack(one, *PAIR)
    pack(two, "1.jpg", "1.txt")
    joined.write_bytes(one.read_bytes() + two.read_bytes() + one.read_bytes())
    source = webdataset_source(str(joined))
    assert content(source) == [PAIR, ("1.jpg", "1.txt"), PAIR]
    assert [note.kind for note in source.notes] == ["repeated"]
    joined.write_bytes(one.read_bytes() + b"a signature")
    assert [note.kind for note in webdataset_source(str(joined)).notes] == ["after_end"]


def test_a_tar_that_is_cut_anywhere_is_noted(tmp_path):
    path = pack(tmp_path / "a.tar", *PAIR, "1.jpg", "1.txt")
    whole = (tmp_path / "a.tar").read_bytes()
    for size in (600, 1025, 2048, 2047, 3072, 3500, 3584 + 3, 4096):
        (tmp_path / "a.tar").write_bytes(whole[:size])
        (index,) = tar_index.open_indices([path])
        assert index.notes.keys() & {"cut_off", "no_end"}, size
    assert not index.notes.keys() & {"cut_off"} and index.count == 2


def test_sparse_members_are_not_read_as_if_they_were_whole(tmp_path):
    old = tarfile.TarInfo("0.jpg")
    old.type, old.size = b"S", 512
    header = bytearray(old.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1  # its list of holes has another block
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
    body = bytes(512) + b"x" * 512
    new = tarfile.TarInfo("GNUSparseFile.1/1.jpg")
    new.size = 1
    new.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.name": "1.jpg",
        "GNU.sparse.realsize": "9",
    }
    rest = new.tobuf(tarfile.PAX_FORMAT) + b"y" + bytes(511)
    last = tarfile.TarInfo("2.jpg").tobuf() + bytes(1024)
    (tmp_path / "a.tar").write_bytes(bytes(header) + body + rest + last)
    source = webdataset_source(str(tmp_path / "a.tar"))
    assert len(source) == 1 and source.notes[1].kind == "special"
    assert (
        "2 members are not read: sparse" in source.notes[1].text
        and "as 0.jpg" in source.notes[1].text
    )


@pytest.mark.parametrize(
    "content, words",
    [
        (b"PAR1" + bytes(600), "is a Parquet file and no tar; `coca data convert` reads those"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "compressed .zstd.*unpack it"),
        (b"BZh91AY" + bytes(600), "compressed .bzip2"),
        (b"PK\x03\x04" + bytes(600), "ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS.*`git lfs pull`"),
        (b"\n <!DOCTYPE html><title>404", "a web page, perhaps of an error"),
        (b'{"error": 1}' * 60, "is not a tar file: it begins with"),
    ],
)
def test_what_is_no_tar_is_named(tmp_path, content, words):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.tar .*{words}"):
        webdataset_source(str(tmp_path / "a.tar"))
