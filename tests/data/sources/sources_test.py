"""Sources in general: the registry, pickling, and formats of a user's own."""

import io
import multiprocessing
import operator
import tarfile
from concurrent.futures import ProcessPoolExecutor

import pytest
from memory_source import MemorySource, record
from tf_examples import example, write_array_record

from coca_jax.data.options import TrainDataConfig
from coca_jax.data.sources import Context, SourceConfig, needs, open_source, sources
from coca_jax.errors import UserError


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_a_spawned_process_reads_every_kind_of_source(prepared, tmp_path):
    for number in range(3):
        (tmp_path / f"classes/{number}").mkdir(parents=True)
        (tmp_path / f"classes/{number}/a.jpg").write_bytes(b"%d" % number)
    rows = "".join(f"classes/{number}/a.jpg,text {number}\n" for number in range(3))
    (tmp_path / "a.csv").write_text(f"image,text\n{rows}")
    write_tar(
        tmp_path / "a.tar",
        {f"{number}.{key}": b"%d" % number for number in range(3) for key in ("jpg", "txt")},
    )
    write_array_record(
        tmp_path / "a.array_record", [example({"image": [b"%d" % number]}) for number in range(3)]
    )
    configs = [
        SourceConfig(format="tfds", name="shapes", split="train[10:]"),
        SourceConfig(format="folder", path=str(tmp_path / "classes")),
        SourceConfig(format="folder", path=str(tmp_path / "a.csv")),
        SourceConfig(format="webdataset", path=str(tmp_path / "a.tar")),
        SourceConfig(format="array_record", path=str(tmp_path / "a.array_record")),
    ]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        for config in configs:
            source = open_source(config, Context(data_dir=prepared))
            read = processes.submit(operator.getitem, source, 2).result()
            assert read == source[2], config.format
            assert config.format == "tfds" or read["image"] == b"2"


def test_a_format_of_a_users_own_is_opened_with_its_options(monkeypatch):
    monkeypatch.setattr(sources, "_added", {})

    @sources.register("numbers")
    @needs("name or path")
    def open_numbers(options, context):
        count = int(options.name) * context.num_images
        return MemorySource(record(b"", [str(number)]) for number in range(count))

    source = open_source(SourceConfig(format="numbers", name="3"), Context(num_images=2))
    assert len(source) == 6 and source[5]["captions"] == ["5"]
    with pytest.raises(UserError, match="path='': format 'numbers' needs a name or path"):
        open_source(SourceConfig(format="numbers"))
    with pytest.raises(UserError, match=r"'zip' does not exist; there are tfds, .*, numbers"):
        open_source(SourceConfig(format="zip", path="a"))


@pytest.mark.parametrize("format_", ["folder", "tfds"])
@pytest.mark.parametrize("path", ["{}/*.csv", "{}/{{a,b}}", ("{}/a", "{}/b"), "https://h/*.csv?k"])
def test_patterns_are_refused_where_one_path_is_read(tmp_path, format_, path):
    path = path.format(tmp_path) if isinstance(path, str) else [p.format(tmp_path) for p in path]
    with pytest.raises(UserError, match=f"path=.*: format '{format_}' reads one file or folder"):
        open_source(SourceConfig(format=format_, path=path, split="train"))


def test_a_folder_that_looks_like_a_pattern_is_read(tmp_path):
    for name in ("a*", "{a,b}"):
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat/1.jpg").write_bytes(b"1")
        assert len(open_source(SourceConfig(format="folder", path=str(tmp_path / name)))) == 1


def test_what_two_sections_name_is_compared_by_their_identity():
    train = TrainDataConfig(name="shapes", captions="first", class_names="a.txt")
    assert train.identity() == {"format": "tfds", "name": "shapes", "split": "train"}
    evaluation = {"name": "shapes", "split": "train", "kind": "retrieval", "limit": 3}
    assert SourceConfig.of(evaluation) == SourceConfig(name="shapes", split="train")
    assert SourceConfig.of(evaluation).identity() == SourceConfig.of(train).identity()
    assert SourceConfig.of({"name": "shapes", "split": "test"}).identity() != train.identity()
