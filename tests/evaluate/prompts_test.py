import hashlib

import pytest

from coca_jax.errors import UserError
from coca_jax.evaluate import prompts


def test_imagenet_prompts_are_clips():
    found = prompts.SETS["imagenet"]
    assert len(found) == 80 and prompts.find_templates("imagenet") == found
    # Of OpenCLIP's list, sorted, a line each.
    digest = hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()
    assert digest == "a8a4822f2921936e2ef07cf2e7a5df69be9532aab2f3f4880156bb03563e2467"


def test_a_file_may_call_the_class_c(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("a photo of a {c}, a type of food.\n\n{}\n")
    assert prompts.find_templates(str(file)) == ("a photo of a {}, a type of food.", "{}")


def test_the_file_next_to_the_data_is_for_those_who_name_none(tmp_path, monkeypatch):
    (tmp_path / prompts.NEXT_TO_DATA).write_text("the {c}\n")
    assert prompts.find_templates(None, str(tmp_path)) == ("the {}",)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~", tmp_path.as_uri()):
        assert prompts.find_templates(None, path) == ("the {}",)
    assert prompts.find_templates(("my {}",), str(tmp_path)) == ("my {}",)
    assert prompts.find_templates(None, str(tmp_path / "other")) == prompts.DEFAULT
    assert prompts.find_templates(None) == prompts.DEFAULT


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("imagnet", r"it should be a named set \(imagenet\), a file of templates, or"),
        ("a {}", r"or templates, written as \('a \{\}',\)$"),
        ("x" * 5000, "^.{,500}$"),
        (("a photo",), "'a photo' has no {} for the class name"),
        ((), "holds no template"),
    ],
)
def test_what_is_no_template(given, message):
    with pytest.raises(UserError, match=message):
        prompts.find_templates(given)
