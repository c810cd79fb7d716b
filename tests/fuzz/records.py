"""Checks of a source's records: each is right, or a counted bad example."""

from collections import Counter

from coca_jax.data.errors import BadExample
from coca_jax.data.transforms import multi_image


def outcomes(source):
    """How many records are read whole ("good"), and how many are bad, by their kind.

    Other exceptions than those that readers should raise are not caught.
    """
    found = Counter()
    for index in range(len(source)):
        try:
            record = source[index]
            if reason := record.get("no_text"):
                raise BadExample("bad_text", reason)
            multi_image.decode_images(record["image"])
            found["good"] += 1
        except BadExample as error:
            found[error.kind] += 1
        except (OSError, EOFError):  # a file that is not there, or has been cut
            found["bad_record"] += 1
    return found


def counts(source):
    """The counts of a source's notes by their kind."""
    assert all(note.count > 0 and note.text for note in source.notes)
    assert len({note.kind for note in source.notes}) == len(source.notes)
    return Counter({note.kind: note.count for note in source.notes})
