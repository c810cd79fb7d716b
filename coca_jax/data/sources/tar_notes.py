"""What was odd about WebDataset tars, in sentences that say what it is and what helps."""

from collections import Counter
from collections.abc import Iterable

from coca_jax.data.sources.base import Note
from coca_jax.data.sources.tar_headers import Notes
from coca_jax.data.sources.tar_index import IMAGE_KEYS, Index
from coca_jax.io import http

SHOWN = 6  # extensions of those that were met
# A tar's sample is known by this; people who write tars by hand often do not know it.
CONVENTION = (
    "the key of a sample is the path of its members up to the first dot of the file's name, and "
    "what follows is the extension"
)

# What is said of each kind, with its {count} and the {first}; and whether it is lost.
_SENTENCES = {
    "without_image": (
        "{count} samples have no image, such as {first}{met}; {convention}{hint}",
        True,
    ),
    "without_text": ("{count} samples have no .txt, .json or .cls, such as {first}{met}", False),
    "duplicate": (
        "{count} members are there twice in a sample, such as {first}: the last one is read, as if "
        "the tar were unpacked",
        True,
    ),
    "repeated": (
        "{count} duplicate keys: a sample has the key of an earlier one, such as {first}; each is "
        "read as a sample of its own",
        False,
    ),
    "apart": (
        "{count} samples have members that are not adjacent, such as {first}: they are joined by "
        "their key (other readers lose them; `tar --sort=name` packs them side by side)",
        False,
    ),
    "several": (
        "{count} images or texts are passed over, such as one of those beside {first}: a sample "
        'has several, and the first kind of {kinds} is read; image_keys=("png",) would take others',
        True,
    ),
    "hidden": ("{count} hidden members are skipped, such as {first}", False),
    "no_extension": (
        "{count} members have no extension and belong to no sample, such as {first}",
        False,
    ),
    "link": (
        "{count} members are links, such as {first}, which hold no bytes; pack what they point to "
        "(`tar --dereference --hard-dereference`)",
        True,
    ),
    "special": (
        "{count} members are sparse files or devices, such as {first}, and are not read; pack "
        "plain files (tar without --sparse)",
        True,
    ),
    "cut_off": (
        "{count} tars are cut off or damaged, such as {first}; the samples before that are used",
        True,
    ),
    "no_end": (
        "{count} tars have no end mark, such as {first}: they may be cut off between two members",
        True,
    ),
    "after_end": (
        "{count} tars have something behind their end that is no tar, such as {first}",
        False,
    ),
}


def merged(indices: Iterable[Index]) -> Notes:
    """The notes of many tars as those of one."""
    found: Notes = {}
    for index in indices:
        for kind, (count, first, counts) in index.notes.items():
            first = f"{first} of {http.shown(index.tar)}" if first else http.shown(index.tar)
            before, name, met = found.get(kind) or (0, first, Counter())
            met.update(counts)
            found[kind] = (before + count, name, met)
    return found


def sentences(notes: Notes) -> list[Note]:
    """The notes for people; what is lost comes first."""
    found = []
    for kind, (text, lost) in _SENTENCES.items():
        if kind in notes:
            count, first, met = notes[kind]
            words = {"count": f"{count:,}", "first": first, "met": _met(met)}
            words |= {"convention": CONVENTION, "hint": _hint(met)}
            words["kinds"] = ", ".join(IMAGE_KEYS[:4]) + ", ..."
            found.append(Note(kind, count, text.format(**words), lost))
    return sorted(found, key=lambda note: not note.lost)


def _met(counts: dict[str, int]) -> str:
    """The commonest extensions."""
    common = [f"{name} ({n:,})" for name, n in Counter(counts).most_common(SHOWN)]
    more = f" and {len(counts) - SHOWN:,} more kinds" if len(counts) > SHOWN else ""
    return f", but {', '.join(common)}{more}" if common else ""


def _hint(counts: dict[str, int]) -> str:
    """How to read members as images whose extension ends like that of one."""
    ends = tuple(f".{key}" for key in IMAGE_KEYS)
    keys = [name[1:] for name, _ in Counter(counts).most_common() if name.lower().endswith(ends)]
    if not keys:
        return ""
    return f". To read them, set image_keys={(*IMAGE_KEYS[:2], *keys[:SHOWN])} of this data set"
