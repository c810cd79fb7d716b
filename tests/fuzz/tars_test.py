import io
import tarfile
from collections import Counter

import pytest
from fuzz.drawing import NAME, edited, edits, encoded
from fuzz.records import counts, outcomes
from fuzz.running import fuzz
from hypothesis import strategies as st

from coca_jax.data.sources import SourceConfig, open_source
from coca_jax.errors import UserError

pytestmark = pytest.mark.slow

# What a sample may hold at each place, and as what it is then counted; None: nothing is there.
IMAGES = {
    "good": [("jpg", encoded()), ("PNG", encoded("PNG")), ("jpg", encoded("GIF"))],
    "without_image": [("input.jpg", encoded()), ("flac", b"fLaC"), None],
    "bad_image": [("jpg", b""), ("jpg", encoded()[:90]), ("png", b"<html>"), ("webp", b"\0" * 600)],
}
TEXTS = {
    "good": [("txt", b"a cat\n"), ("TXT", "\ufeffun café".encode()), ("txt", b" "), None],
    "bad_text": [("txt", b"caf\xe9"), ("txt", b"\x01\x02"), ("txt", b"a\0b")],
}
JSONS = {
    "good": [("json", b'{"caption": "a dog", "w": NaN}'), ("json", b"{}"), None],
    "bad_record": [("json", s) for s in (b"", b"[]", b'{"a"', b"[" * 100_000, b"9" * 5000)],
}
CLASSES = {
    "good": [("cls", b"3\n"), ("cls", b"-1"), ("cls", b""), ("cls", b"cat"), None],
    "bad_record": [("cls", b"9" * 30), ("cls", b"1.5"), ("cls", b"-2")],
    "bad_text": [("cls", b"\xff")],
}


def one_of(kinds):
    """Draws (what it is counted as, member), as often a good one as any other."""
    other = [(kind, m) for kind, members in kinds.items() for m in members if kind != "good"]
    good = [("good", member) for member in kinds["good"]]
    return st.sampled_from(good) | st.sampled_from(other)


SAMPLE = st.tuples(*map(one_of, (IMAGES, TEXTS, JSONS, CLASSES)))
AGAIN = st.sampled_from(["", "", "duplicate", "several"])  # what else there is of its image
FOLDER = st.sampled_from(["", "./", "a/", "v1.0/", "é/", "a" * 150 + "/", "a b/c/"])
EXTRA = st.sampled_from(["._a.jpg", ".DS_Store", "__MACOSX/b.jpg", "README", "link.jpg", "folder"])
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def write(samples, extras, form, shuffled):
    """A tar of samples and of members that belong to none, as bytes."""
    members = [
        (f"{folder}{number}{name}.{member[0]}", member[1])
        for number, (folder, name, sample, again) in enumerate(samples)
        for member in (*again_of(sample, again, shuffled), *(m for _, m in sample))
        if member
    ]
    if shuffled:  # as if it were packed by extension
        members.sort(key=lambda member: member[0].rpartition(".")[2])
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in [*((name, b"") for name in extras), *members]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if name in ("link.jpg", "folder"):
                member.type = tarfile.SYMTYPE if name == "link.jpg" else tarfile.DIRTYPE
                member.linkname = "0.jpg"
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def again_of(sample, again, shuffled):
    """Members of a sample before its image, which is read instead; never where it has none."""
    kind, image = sample[0]
    if kind == "without_image" or not again or (again == "several" and shuffled):
        return []
    return [(image[0] if again == "duplicate" else "bmp", b"not read")]


def expected(samples):
    """Counts of samples by what is wrong with them first, in the order in which they are read."""
    found = Counter()
    for _, _, (image, text, fields, label), _ in samples:
        kinds = [kind for kind, _ in (fields, label, text, image) if kind != "good"]
        lost = image[0] == "without_image"
        found["without_image" if lost else kinds[0] if kinds else "good"] += 1
    return found


SAMPLES = st.lists(st.tuples(FOLDER, NAME, SAMPLE, AGAIN), max_size=5)
INPUT = {"samples": SAMPLES, "extras": st.lists(EXTRA, unique=True, max_size=3)}
INPUT |= {"form": FORMATS, "shuffled": st.booleans()}


def opened(path):
    return open_source(SourceConfig(format="webdataset", path=str(path)))


@fuzz(100, **INPUT)
def test_every_sample_is_a_record_or_counted(folder, samples, extras, form, shuffled):
    path = folder / "a.tar"
    try:
        path.write_bytes(write(samples, extras, form, shuffled))
    except ValueError:  # a name that this format of tars cannot hold
        return
    wanted = expected(samples)
    images = sum(wanted.values()) - wanted["without_image"]
    # Samples of no members at all are not in the tar.
    wanted["without_image"] -= sum(not any(m for _, m in sample) for _, _, sample, _ in samples)
    wanted["without_image"] += "link.jpg" in extras
    again = sum(len(again_of(sample, again, shuffled)) for _, _, sample, again in samples)
    if not images:
        with pytest.raises(UserError, match="has an image"):
            opened(path)
        return
    for _ in range(2):  # the second time from the index
        source = opened(path)
        assert len(source) == images
        found = counts(source)
        hidden = sum(name.startswith(("._", ".DS", "__M")) for name in extras)
        assert (found["hidden"], found["no_extension"]) == (hidden, "README" in extras)
        assert (found["link"], found["cut_off"]) == ("link.jpg" in extras, 0)
        assert found["duplicate"] + found["several"] == again
        assert +(outcomes(source) + Counter(without_image=found["without_image"])) == +wanted


@fuzz(100, **INPUT, changes=edits(least=1))
def test_what_damage_takes_from_a_tar_is_said(folder, samples, extras, form, shuffled, changes):
    path, whole = folder / "a.tar", folder / "whole.tar"
    try:
        data = write(samples, extras, form, shuffled)
        whole.write_bytes(data)
        before = opened(whole)
    except (ValueError, UserError):
        return
    path.write_bytes(edited(data, changes))
    try:
        source = opened(path)
    except UserError:
        return
    outcomes(source)
    assert len(source) >= len(before) or counts(source) != counts(before)


@fuzz(40, **INPUT, changes=edits(least=1))
def test_a_damaged_index_is_made_anew_or_harmless(folder, samples, extras, form, shuffled, changes):
    path, index = folder / "a.tar", folder / "a.tar.coca_index"
    try:
        path.write_bytes(write(samples, extras, form, shuffled))
        length = len(opened(path))
    except (ValueError, UserError):
        return
    index.write_bytes(edited(index.read_bytes(), changes))
    source = opened(path)
    assert len(source) == length
    for place in range(length):
        try:
            source[place]
        except Exception:  # counted as bad_record, whatever it is
            continue
