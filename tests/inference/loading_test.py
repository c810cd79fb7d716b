import shlex

import pytest

from coca_jax.errors import UserError
from coca_jax.inference import find_checkpoint

WEIGHTS = "open_clip_pytorch_model.bin"


@pytest.mark.parametrize(
    ("files", "given", "command"),
    [
        (["my model.pt"], "my model.pt", "--from open_clip --variant open_clip_vit_b_32 '"),
        (["a.safetensors"], "a.safetensors", "--from open_clip --variant "),
        (["a.safetensors.index.json"], "a.safetensors.index.json", "--from open_clip --variant "),
        ([WEIGHTS], "", "--from open_clip --variant "),
    ],
)
def test_weights_of_others_are_to_be_converted(files, given, command, tmp_path):
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="weights of another project") as caught:
        find_checkpoint(tmp_path / given)
    assert f"coca convert {command}" in str(caught.value)
    assert f" {shlex.quote(str(tmp_path / given))} FOLDER" in str(caught.value)


def test_other_files_are_no_weights(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match=r"holds no config\.json"):
            find_checkpoint(path)
    with pytest.raises(UserError, match=r"absent\.bin does not exist$"):
        find_checkpoint(tmp_path / "absent.bin")
