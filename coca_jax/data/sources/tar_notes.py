"""Notes on what is unusual about WebDataset tars, as sentences that also say what to do."""

from collections import Counter
from collections.abc import Iterable, Sequence

from coca_jax.data.sources.base import Note
from coca_jax.data.sources.tar_headers import Notes
from coca_jax.data.sources.tar_index import IMAGE_KEYS, TEXT_KEYS, Index
from coca_jax.io import http
from coca_jax.io.messages import counted

SHOWN = 6  # extensions, of those that occur
# WebDataset's rule, which people who write tars by hand often do not know.
CONVENTION = (
    "the key of a sample is the path of its members up to the first dot of the file's name, and "
    "what follows is the extension"
)

# By kind: what is counted, in the plural; the rest of the sentence; and whether it is lost.
_SENTENCES = {
    "without_image": ("samples have no image", ", such as {first}{met}; {convention}{hint}", True),
    "without_text": ("samples have no {texts}, .json or .cls", ", such as {first}{met}", False),
    "duplicate": (
        "members are duplicated in a sample",
        ", such as {first}: the last one is read, as if the tar were unpacked",
        True,
    ),
    "repeated": (
        "duplicate keys",
        ": a sample has the key of an earlier one, such as {first}; each is read as a sample of "
        "its own",
        False,
    ),
    "apart": (
        "samples have members that are not adjacent",
        ", such as {first}: they are joined by their key (other readers lose them; "
        "`tar --sort=name` packs them side by side)",
        False,
    ),
    "several": (
        "members are passed over",
        ", such as one next to {first}: a sample has several images or texts, and the "
        'first kind of {kinds} is read; image_keys=("png",) would take others',
        True,
    ),
    "hidden": ("hidden members are skipped", ", such as {first}", False),
    "no_extension": (
        "members have no extension",
        " and so no sample, such as {first}",
        False,
    ),
    "link": (
        "links hold no bytes",
        ", such as {first}; pack the files that links point to "
        "(`tar --dereference --hard-dereference`)",
        True,
    ),
    "special": (
        "members are not read",
        ": sparse files or devices, such as {first}; pack plain files (tar without --sparse)",
        True,
    ),
    "cut_off": (
        "tars are cut off or damaged",
        ", such as {first}; the samples before that are used",
        True,
    ),
    "no_end": (
        "tars have no end mark",
        ", such as {first}: perhaps cut off between two members",
        True,
    ),
    "after_end": (
        "tars have something behind the end",
        " that is not a tar, such as {first}",
        False,
    ),
}


def merged(indices: Iterable[Index]) -> Notes:
    """The notes of many tars as those of one."""
    notes: Notes = {}
    for index in indices:
        for kind, (count, first, counts) in index.notes.items():
            first = f"{first} of {http.shown(index.tar)}" if first else http.shown(index.tar)
            before, name, extensions = notes.get(kind) or (0, first, Counter())
            extensions.update(counts)
            notes[kind] = (before + count, name, extensions)
    return notes


def sentences(
    notes: Notes, image_keys: Sequence[str] = (), text_keys: Sequence[str] = ()
) -> list[Note]:
    """The notes as sentences, those on what is lost first.

    Args:
      notes: of all tars.
      image_keys: as of `make_options`.
      text_keys: as of `make_options`.
    """
    lines = []
    kinds = [key.removeprefix(".") for key in image_keys or IMAGE_KEYS]
    texts = ", ".join(f".{key.removeprefix('.')}" for key in text_keys or TEXT_KEYS)
    for kind, (what, rest, lost) in _SENTENCES.items():
        if kind in notes:
            count, first, extensions = notes[kind]
            words = {"first": first, "met": _commonest(extensions)}
            words |= {"convention": CONVENTION, "hint": _hint(extensions, image_keys)}
            words["kinds"] = ", ".join(kinds[:4]) + ", ..." * (len(kinds) > 4)
            text = counted(count, what.format(texts=texts)) + rest.format(**words)
            lines.append(Note(kind, count, text, lost))
    return sorted(lines, key=lambda note: not note.lost)


def _commonest(counts: dict[str, int]) -> str:
    """The commonest extensions."""
    common = [f"{name} ({n:,})" for name, n in Counter(counts).most_common(SHOWN)]
    more = f" and {len(counts) - SHOWN:,} more kinds" if len(counts) > SHOWN else ""
    return f", but {', '.join(common)}{more}" if common else ""


def _hint(counts: dict[str, int], image_keys: Sequence[str]) -> str:
    """A sentence on reading members as images, where an extension ends like that of an image."""
    ends = tuple(f".{key}" for key in IMAGE_KEYS)
    read = {key.lower().removeprefix(".") for key in image_keys or IMAGE_KEYS}  # but not of links
    keys = [name[1:] for name, _ in Counter(counts).most_common() if name.lower().endswith(ends)]
    keys = [key for key in keys if key.lower() not in read]
    if not keys:
        return ""
    keys = (*(image_keys or IMAGE_KEYS[:2]), *keys[:SHOWN])
    return f". To read them, set image_keys={keys} of this data set"
