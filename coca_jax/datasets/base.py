"""Base classes of the builders of this project's data sets."""

import abc
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of a data set with random access, whose records keep the order they are made in."""

    size_mib: ClassVar[int]  # approximate size of all its files
    tokenizer_vocab_size = 0  # of the tokenizer that is trained on its texts; 0: there is none
    url_infos = None  # TFDS downloads nothing; its look-up needs a package that it does not require

    def __init__(self, **kwargs: Any):
        super().__init__(**{"file_format": "array_record"} | kwargs)  # `tfds.data_source` gives it

    @abc.abstractmethod
    def features(self) -> dict[str, Any]:
        """Names and TFDS features of a record."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__ or self.name,  # `python -OO` has no docstrings
            features=tfds.features.FeaturesDict(self.features()),
            disable_shuffling=True,
        )


class Drawn(Builder, skip_registration=True):
    """Builder of a generated data set: a record is a function of its split and number."""

    counts: ClassVar[dict[str, int]]  # records of each split

    @abc.abstractmethod
    def record(self, split: str, *seed: int) -> dict[str, Any]:
        """Makes the record of a seed, which no other record of any split has."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        number = list(self.counts).index(split)
        for index in range(self.counts[split]):
            yield index, self.record(split, number, index)
