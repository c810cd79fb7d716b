from coca_jax.config.document import PAGE, document
from coca_jax.config.tree import keys


def test_the_page_is_that_of_the_schema():
    assert PAGE.read_text() == document(), "stale: run `python -m coca_jax.config.document`"


def test_every_key_has_a_row_and_a_meaning():
    page = document()
    for key, field in keys().items():
        section, _, name = key.rpartition(".")
        table = page.split(f"## {section or 'Top level'}\n")[1].split("\n## ")[0]
        assert f"| `{name}` |" in table, key
        assert field.doc.endswith("."), key
