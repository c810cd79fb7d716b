import os

from coca_jax.data.sources.class_folders import ClassFolders


def test_notes_read_well_for_one_and_for_several(tmp_path):
    for clip in ("cat/one", "dog/one", "dog/two"):
        (tmp_path / clip).mkdir(parents=True)
        (tmp_path / clip / "0.jpg").touch()
    os.symlink(tmp_path / "cat", tmp_path / "cat/one/loop")
    notes = {note.kind: note.text for note in ClassFolders(str(tmp_path)).notes}
    assert notes["deeper"].startswith("3 images lie deeper than in the folder of a class, such as")
    assert notes["loops"].startswith("1 link back to a parent folder is skipped, such as")
    notes = {note.kind: note.text for note in ClassFolders(str(tmp_path), clips=True).notes}
    assert notes["clips"].startswith("3 clips are read from images, a folder per clip, such as")
