"""CLIP's byte-pair encoding: the same ids as OpenCLIP's `SimpleTokenizer` on any text.

Radford et al. 2021 (https://arxiv.org/abs/2103.00020). Ids 0 to 255 are the bytes, 256 to 511 the
bytes that end a word, then one id a merge, then the two special ones. Words are found by `regex`,
as there: other engines know other letters, depending on their version of Unicode.
"""

import gzip
import heapq
import html
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple

import ftfy
import regex

from coca_jax.data.tokenizers.base import Tokenizer

MERGES_FILE = Path(__file__).with_name("clip_merges.txt.gz")
SPECIAL = {"<start_of_text>": 49406, "<end_of_text>": 49407}
WORD = regex.compile(
    "|".join(SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
# The bytes in the order of their ids: those that Latin-1 can show, then the others.
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES += sorted(set(range(256)) - set(BYTES))
ID_OF_BYTE = {byte: i for i, byte in enumerate(BYTES)}

Merges = dict[tuple[int, int], int]


class ClipTokenizer(Tokenizer):
    """CLIP's lower-case byte pairs, with the same ids as OpenCLIP's; needs no file."""

    # As in OpenCLIP, padding has the id of a "!" within a word; only its index after eos tells.
    pad_id, bos_id, eos_id = 0, 49406, 49407
    vocab_size = 49408

    def to_ids(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """See `Tokenizer.to_ids`."""
        return [encode(text, limit) for text in texts]

    def to_texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See `Tokenizer.to_texts`; bytes that are not UTF-8 become U+FFFD."""
        return [decode(row) for row in rows]

    def _content(self, row: list[int]) -> list[int]:
        if self.eos_id in row:
            return row[: row.index(self.eos_id)]
        while row and row[-1] == self.pad_id:
            row = row[:-1]
        return row


class MergeTable(NamedTuple):
    """The content of the file of merges."""

    merges: Merges  # of two neighboring ids to one
    spelling: list[bytes]  # of each id; a space stands for the end of a word


def encode(text: str, limit: int | None = None) -> list[int]:
    """The ids of a text; "<start_of_text>" and "<end_of_text>" in it become special ids.

    Args:
      text: any.
      limit: the number of first ids to return; words after them are not looked at. None: all.
    """
    words = (match[0] for match in WORD.finditer(clean(text)))
    return list(islice(chain.from_iterable(map(_word_ids, words)), limit))


def decode(ids: Iterable[int]) -> str:
    """The text of ids; bytes that are not UTF-8 become U+FFFD, special ids nothing."""
    spelling = table().spelling
    spelled = b"".join(spelling[i] for i in ids if 0 <= i < len(spelling))
    return spelled.decode(errors="replace").strip()


def clean(text: str) -> str:
    """Mends mojibake and HTML entities, joins white space, and makes everything lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def merge(ids: list[int], merges: Merges) -> list[int]:
    """Merges neighbors, the earliest-learned merge and the leftmost pair first.

    The heap keeps a long run of letters, of which the web has some, from taking quadratic time.
    """
    ids, end = list(ids), len(ids)
    left, right = list(range(-1, end - 1)), list(range(1, end + 1))  # neighbors still there
    candidates = [(merges[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in merges]
    heapq.heapify(candidates)
    while candidates:
        merged, i = heapq.heappop(candidates)
        j = right[i]
        if j == end or merges.get((ids[i], ids[j])) != merged:
            continue  # one of the two has been merged with another since
        ids[i], ids[j], right[i] = merged, -1, right[j]
        if right[i] < end:
            left[right[i]] = i
        for k in (left[i], i):
            if k >= 0 and right[k] < end and (pair := (ids[k], ids[right[k]])) in merges:
                heapq.heappush(candidates, (merges[pair], k))
    return [i for i in ids if i >= 0]


@cache
def table() -> MergeTable:
    """Reads the file of merges, once."""
    shown = [chr(byte) for byte in BYTES[:188]] + [chr(256 + i) for i in range(68)]
    spelling = [bytes([byte]) for byte in BYTES] + [bytes([byte, 32]) for byte in BYTES]
    ids = {symbol: i for i, symbol in enumerate([*shown, *(s + "</w>" for s in shown)])}
    merges = {}
    for line in gzip.decompress(MERGES_FILE.read_bytes()).decode().splitlines():
        first, second = line.split(" ")
        pair = ids[first], ids[second]
        merges[pair] = ids[first + second] = len(spelling)
        spelling.append(spelling[pair[0]] + spelling[pair[1]])
    return MergeTable(merges, spelling)


@lru_cache(maxsize=1 << 14)
def _word_ids(word: str) -> tuple[int, ...]:
    if word in SPECIAL:
        return (SPECIAL[word],)
    ids = [ID_OF_BYTE[byte] for byte in word.encode()]
    ids[-1] += 256
    return tuple(merge(ids, table().merges))
