import json

import pytest

from coca_jax import cli
from coca_jax.data_tools.answer_vocab import write_answers
from coca_jax.errors import UserError


def table(path, *answers):
    """With an image for every two answers."""
    pairs = [answers[i : i + 2] for i in range(0, len(answers), 2)]
    path.write_text("".join(json.dumps({"image": "a", "answers": pair}) + "\n" for pair in pairs))
    return str(path)


def test_the_commonest_answers_of_several_tables(tmp_path, capsys):
    one = table(tmp_path / "one.jsonl", ["yes"] * 6 + ["no"] * 4, "Yes.", "two", "the")
    two = table(tmp_path / "two.jsonl", "2", ["no", "yes", "no"], "yes", ["red"], "a", "no")
    output = tmp_path / "answers.txt"
    assert cli.main(["data", "answer-vocab", one, two, str(output), "--min-count", "2"]) == 0
    # "the" and "a" are nothing but articles.
    assert output.read_text() == "yes\n2\nno\n"
    assert capsys.readouterr().out == f"{output}: 3 answers, to 7 of 10 questions\n"
    assert write_answers([one], output, 1).answers == ["yes", "2"]
    assert cli.main(["data", "answer-vocab", one, str(output), "--min-count", "2"]) == 0
    assert capsys.readouterr().out == f"{output}: 1 answer, to 2 of 4 questions\n"


def test_usual_classes_have_nine_questions(tmp_path):
    path = table(tmp_path / "t.jsonl", *["yes"] * 9, *["no"] * 8)
    assert write_answers([path], tmp_path / "answers.txt") == (["yes"], 17, 9)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"answers": ["a"]}\n{"image": "b"}', r"t\.jsonl:2 needs answers; it has image"),
        (
            '{"answers": [[]]}',
            r"t\.jsonl:1: an answer is \[\]; it should be a text or a list of texts",
        ),
        ('{"answers": [3]}', r"t\.jsonl:1: an answer is 3"),
        (r'{"answers": ["\ud800"]}', r"t\.jsonl:1: an answer is '\\ud800'"),
        (r'{"answers": [["a\u0000"]]}', r"t\.jsonl:1: an answer is \['a\\x00'\]"),
        ('{"answers": "yes"}', r"t\.jsonl:1: answers should be a list; it is 'yes'"),
        ('{"answers": ["red"]}\n{', r"t\.jsonl:2 is not JSON"),
        ('{"answers": ["red"]}', "no answer is given to 9 or more of the 1 questions"),
        ("", "of the 0 questions"),
    ],
)
def test_tables_that_are_wrong(tmp_path, lines, message):
    path = tmp_path / "t.jsonl"
    path.write_text(lines)
    with pytest.raises(UserError, match=message):
        write_answers([path], tmp_path / "answers.txt")
    with pytest.raises(UserError, match=r"is named like a table: give a \.txt"):
        write_answers([path], tmp_path / "other.jsonl")
