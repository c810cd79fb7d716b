"""Examples and ArrayRecord files, written with the libraries' own classes."""

from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2


def feature(values):
    if all(isinstance(value, bytes) for value in values):
        return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=values))
    if all(isinstance(value, int) for value in values):
        return tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=values))
    return tf_feature_pb2.Feature(float_list=tf_feature_pb2.FloatList(value=values))


def example(features):
    """The serialized example of {name: list of bytes, of ints or of floats}."""
    made = {name: feature(values) for name, values in features.items()}
    return tf_example_pb2.Example(
        features=tf_feature_pb2.Features(feature=made)
    ).SerializeToString()


def write_array_record(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return str(path)
