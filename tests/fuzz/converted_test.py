import io

import pyarrow
import pytest
from fuzz.drawing import TEXT, edited, edits, encoded
from fuzz.records import outcomes
from fuzz.running import fuzz
from hypothesis import strategies as st
from memory_source import MemorySource
from pyarrow import parquet as pq
from tf_examples import example, write_array_record

from coca_jax.data.errors import BadExample
from coca_jax.data.sources import SourceConfig, open_source
from coca_jax.data.sources.parquet_columns import choose_columns, read_footer
from coca_jax.data.sources.tf_example import IMAGE_KEYS, to_record
from coca_jax.data_tools.parquet import examples
from coca_jax.errors import UserError

pytestmark = pytest.mark.slow

KEY = st.sampled_from(["image", "caption", "captions", "label", "labels", "images", "n", "é"])
BYTES = st.just(encoded()) | st.binary(max_size=9) | TEXT.map(str.encode)
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 4)
LIST = st.one_of(
    st.lists(BYTES, max_size=3), st.lists(INTEGERS, max_size=3), st.lists(st.floats(width=32))
)
FEATURES = st.dictionaries(KEY, LIST, max_size=5)
CLASSES = st.sampled_from([[], ["cat", "dog"]])


@fuzz(80, features=FEATURES, changes=edits(), class_names=CLASSES)
def test_an_example_is_a_record_or_bad(folder, features, changes, class_names):
    data = edited(example(features), changes)
    try:
        record = to_record(data, class_names)
    except BadExample:
        return
    except KeyError as error:
        assert IMAGE_KEYS[0] in str(error)
        return
    outcomes(MemorySource([record]))


@fuzz(40, records=st.lists(FEATURES, max_size=4), changes=edits())
def test_a_damaged_array_record_is_read_or_refused(folder, records, changes):
    path = folder / "a.array_record"
    write_array_record(path, map(example, records))
    path.write_bytes(edited(path.read_bytes(), changes))
    try:
        source = open_source(SourceConfig(format="array_record", path=str(path)))
    except UserError:
        return
    assert changes or len(source) == len(records)
    for index in range(len(source)):
        try:
            source[index]
        except Exception:  # the library's own are of many kinds; each is counted as bad_record
            continue


COLUMNS = st.fixed_dictionaries(
    {"jpg": st.lists(st.none() | BYTES, min_size=3, max_size=3)},
    optional={
        "caption": st.lists(st.none() | TEXT, min_size=3, max_size=3),
        "captions": st.lists(st.lists(TEXT, max_size=2), min_size=3, max_size=3),
        "n": st.lists(st.none() | INTEGERS, min_size=3, max_size=3),
        "big": st.lists(st.integers(2**63, 2**64 - 1), min_size=3, max_size=3),
        "flag": st.lists(st.booleans(), min_size=3, max_size=3),
        "image": st.lists(st.just({"bytes": None, "path": "a.jpg"}), min_size=3, max_size=3),
    },
)


@fuzz(60, columns=COLUMNS, changes=edits())
def test_every_row_of_parquet_is_an_example_or_counted(folder, columns, changes):
    file = io.BytesIO()
    large = {name: pyarrow.array(columns[name], "uint64") for name in {"big"} & {*columns}}
    pq.write_table(pyarrow.table(columns | large), file)
    path = folder / "a.parquet"
    path.write_bytes(edited(file.getvalue(), changes))
    try:
        footer = read_footer(str(path))
        chosen = choose_columns(footer.schema, "", (), footer.unsigned)
        rows = list(examples(str(path), range(len(footer.rows)), chosen))
    except UserError as error:
        assert str(error).strip()
        return
    assert len(rows) == sum(footer.rows)
    for row in rows:
        if isinstance(row, bytes):
            assert to_record(row, ())["image"]
