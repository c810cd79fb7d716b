"""Converts Parquet files, which are slow to read at random, to a TFDS data set.

Every shard is written to a temporary file and renamed when it is complete. A manifest records what
the folder is made from. Repeating an interrupted call therefore continues it, and a call with
other inputs or options is refused.
"""

import functools
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from coca_jax.data.sources.parquet import NoImage
from coca_jax.data.sources.parquet_columns import Columns, common_columns, read_footer
from coca_jax.data.sources.split_files import files_of_split
from coca_jax.data_tools import parquet
from coca_jax.errors import UserError
from coca_jax.io import files, http, room
from coca_jax.io.cores import available_cores
from coca_jax.io.locks import locked
from coca_jax.io.messages import counted
from coca_jax.io.parent import end_with_parent

NAME = "converted"  # of the data set
MANIFEST = "conversion.json"
OPENING_THREADS = 32  # more than CPUs: they wait for storage


class Shard(NamedTuple):
    """A file to be written, and the rows that go into it."""

    out: str
    path: str
    groups: range  # row groups of the file at `path`
    rows: int


class Written(NamedTuple):
    """Counts of a shard's rows that became records, and of those that could not."""

    records: int
    files: int = 0  # image files that rows name and that cannot be read
    file: str = ""  # one of those files


def convert(
    paths: str | Sequence[str],
    out: str,
    *,
    image: str = "",
    captions: Sequence[str] = (),
    split: str = "train",
    records_per_shard: int = 10_000,
    workers: int = 0,
) -> Path:
    """Converts Parquet files to a TFDS data set; `tfds_source("", split, path=out)` reads it.

    A record has an image, captions, and all columns of texts, numbers and lists of them as fields.
    Floats have 32 bits. Rows without an image are left out. After an interruption, repeat the call
    to continue.

    Args:
      paths: the files (`files.expand`), local or URLs, or local folders of them, with the same
        columns.
      out: the folder to make, which holds nothing else.
      image: the column of encoded images, or of Hugging Face's {bytes, path}; empty: the only
        column of that kind.
      captions: the columns of captions; none: those with a usual name (`CAPTION_NAMES`).
      split: the name of the data set's only split. In a folder whose files are named by splits
        (`files_of_split`), those of this one are read.
      records_per_shard: the approximate number of rows in a shard; row groups stay whole.
      workers: processes; 0: one for each core of this process.

    Returns:
      The data set's folder.

    Raises:
      UserError: the files are missing, damaged or different from each other, the columns of images
        or captions are ambiguous, or `out` holds something else or is written by another process.
    """
    _require_pyarrow()
    _check_arguments(out, split, records_per_shard, workers)
    inputs = _inputs(paths, split)
    with ThreadPoolExecutor(OPENING_THREADS) as threads:
        footers = list(threads.map(read_footer, inputs))
    columns = common_columns(inputs, footers, image, captions)
    shards = _plan(inputs, [footer.rows for footer in footers], out, split, records_per_shard)
    options = {"split": split, "records_per_shard": records_per_shard, **columns._asdict()}
    written: dict[str, Written] = {}
    needed = functools.partial(_needed, inputs, shards, written)
    with room.explained(out, needed, "and repeat the command: it continues where it stopped"):
        _claim(Path(out), _manifest(inputs, options))
        with locked(out, "written"):
            _write_shards(shards, columns, workers or available_cores(), written)
            results = [written[shard.out] for shard in shards]
            if not any(result.records for result in results):
                shown = ", ".join(map(http.shown, inputs[:3]))
                raise UserError(
                    f"no row of {shown} has an image in column {columns.image!r}{_absent(results)}"
                )
            _finish(Path(out), split, [result.records for result in results], columns)
    _report(out, split, results, sum(shard.rows for shard in shards), columns)
    return Path(out)


def _needed(inputs: Sequence[str], shards: Sequence[Shard], written: Mapping[str, Written]) -> int:
    """Bytes that the shards which are not written yet will take, as large as their inputs."""
    rows = sum(shard.rows for shard in shards)
    rest = sum(shard.rows for shard in shards if shard.out not in written)
    return sum(files.stamp(path).size for path in inputs) * rest // rows


def _check_arguments(out: str, split: str, records_per_shard: int, workers: int) -> None:
    if not re.fullmatch(r"[A-Za-z]\w*", split) or split == "all":
        raise UserError(f"split={split!r} should be a word such as 'train' or 'validation'")
    if records_per_shard < 1 or workers < 0:
        raise UserError(f"{records_per_shard=} should be positive and {workers=} not negative")
    if files.is_url(out):
        raise UserError(f"out={out!r} should be a local folder; copy the result from there")


def _inputs(paths: str | Sequence[str], split: str) -> list[str]:
    """The files to convert; prints how the files of a split were chosen."""
    inputs: list[str] = []
    for path in files.expand(paths):
        names, notes = files_of_split(path, split, "*.parquet")
        inputs += names
        for note in notes:
            print(note.text)
    return inputs


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError("to read Parquet files, pip install pyarrow") from error


def _plan(
    inputs: list[str], groups: list[list[int]], out: str, split: str, size: int
) -> list[Shard]:
    """Shards of consecutive row groups of one file, with at least `size` rows where they last."""
    parts: list[tuple[str, range, int]] = []
    for path, rows in zip(inputs, groups, strict=True):
        first = 0
        for end in range(1, len(rows) + 1):
            count = sum(rows[first:end])
            if count >= size or (end == len(rows) and count):
                parts.append((path, range(first, end), count))
                first = end
    return [
        Shard(str(Path(out) / f"{NAME}-{split}.array_record-{i:05}-of-{len(parts):05}"), *part)
        for i, part in enumerate(parts)
    ]


def _manifest(inputs: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """The inputs and options of a conversion, in the form that JSON gives back."""
    with ThreadPoolExecutor(OPENING_THREADS) as threads:
        stamps = threads.map(files.stamp, inputs)
    names = [path if files.is_url(path) else os.path.abspath(path) for path in inputs]
    manifest = {"inputs": dict(zip(names, stamps, strict=True)), "options": options}
    return json.loads(json.dumps(manifest))


def _claim(out: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest to a new folder, or checks that of an earlier call.

    Raises:
      UserError: the folder holds something else, or was made from other inputs or options.
    """
    path = out / MANIFEST
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} holds something else; give a new folder")
        files.write_whole(path, json.dumps(manifest, indent=1).encode())
        return
    try:
        before = json.loads(path.read_bytes())
        difference = _difference(before["inputs"], manifest["inputs"]) or _difference(
            before["options"], manifest["options"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; delete {out} or give another folder") from error
    if difference:
        raise UserError(
            f"{out} was made from other inputs or options: {difference}; "
            "delete it or give another folder"
        )


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """A sentence on the first entry that differs; empty if none does."""
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            return f"{name} was {before.get(name, 'absent')} and is {now.get(name, 'absent')}"
    return ""


def _write_shards(
    shards: list[Shard], columns: Columns, workers: int, written: dict[str, Written]
) -> None:
    """Writes the shards that are missing, and fills `written` with the counts of each file."""
    with ThreadPoolExecutor(OPENING_THREADS) as threads:
        counts = dict(zip([s.out for s in shards], threads.map(_count, shards), strict=True))
    written.update({out: Written(count) for out, count in counts.items() if count >= 0})
    rest = [shard for shard in shards if shard.out not in written]
    total = sum(shard.rows for shard in shards)
    done = total - sum(shard.rows for shard in rest)
    with tqdm(total=total, initial=done, unit=" rows", desc="converting") as bar:
        for shard, result in _written(rest, columns, min(workers, len(rest))):
            written[shard.out] = result
            bar.update(shard.rows)


def _count(shard: Shard) -> int:
    """The number of records in a complete shard; -1 for one that is still to be written."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not os.path.exists(shard.out):
        return -1
    try:
        reader = ArrayRecordReader(shard.out)
        count = reader.num_records()
        reader.close()
    except RuntimeError:  # the machine stopped before the file was on its disk
        return -1
    return count


def _written(
    shards: list[Shard], columns: Columns, workers: int
) -> Iterator[tuple[Shard, Written]]:
    """Writes shards, and yields each with the counts of its rows."""
    if workers <= 1:
        for shard in shards:
            yield shard, _write(shard, columns)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _start_worker) as pool:
        waiting = {pool.submit(_write, shard, columns): shard for shard in shards}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process of the conversion was killed, perhaps because memory ran out; "
                "repeat the command with fewer workers to continue"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Makes a worker exit silently on Ctrl-C, which also reaches it, and when its parent exits."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


def _write(shard: Shard, columns: Columns) -> Written:
    """Writes a shard, and returns the counts of its rows."""
    from array_record.python.array_record_module import ArrayRecordWriter

    count, absent = 0, []
    with files.atomic(shard.out) as temporary:
        # Images are compressed already. TFDS and Grain want groups of one record.
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        try:
            for example in parquet.examples(shard.path, shard.groups, columns):
                if not isinstance(example, NoImage):
                    writer.write(example)
                    count += 1
                elif example.file:
                    absent.append(example.file)
        finally:
            writer.close()
    return Written(count, len(absent), absent[0] if absent else "")


def _finish(out: Path, split: str, lengths: list[int], columns: Columns) -> None:
    """Writes the metadata that make the shards a TFDS data set."""
    import tensorflow_datasets as tfds

    files.remove_temporaries(out, min_age=0.0)  # no process writes here any more
    template = tfds.core.ShardedFileTemplate(
        out, dataset_name=NAME, split=split, filetype_suffix="array_record"
    )
    info = tfds.core.SplitInfo(
        name=split,
        shard_lengths=lengths,
        num_bytes=sum(path.stat().st_size for path in out.glob(f"{NAME}-*")),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=parquet.to_features(columns),
        split_infos=[info],
        check_data=False,  # which needs TensorFlow
    )


def _absent(written: list[Written]) -> str:
    """A phrase on the image files that rows name and that cannot be read; empty if none."""
    count = sum(shard.files for shard in written)
    file = next((shard.file for shard in written if shard.file), "")
    text = f"; for {count:,} of them the named file is missing or cannot be read, such as {file!r}"
    return text + " (looked for in the folder of the Parquet file)" if count else ""


def _report(out: str, split: str, written: list[Written], rows: int, columns: Columns) -> None:
    records = sum(shard.records for shard in written)
    print(f"{counted(records, 'records')} in {counted(len(written), 'shards')} in {out}")
    if rows > records:
        lost = counted(rows - records, "rows without an image were left out")
        print(f"  {lost}{_absent(written)}")
    print(f"  image: {columns.image}")
    print(f"  captions: {', '.join(columns.captions) or 'none'}")
    print(f"  fields: {', '.join(columns.fields) or 'none'}")
    if columns.unsigned:
        print(f"  stored as text (numbers of 2**63 or more): {', '.join(columns.unsigned)}")
    if columns.left_out:
        print(f"  left out (unsupported types): {', '.join(columns.left_out)}")
    flag = "" if split == "train" else f" --config.data.train.split={split}"
    print(f"to train on it: --config.data.train.format=tfds --config.data.train.path={out}{flag}")
