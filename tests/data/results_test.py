import json

import pytest

from coca_jax.data.results import Piece, read_embeddings
from coca_jax.errors import UserError


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"text"])
def test_a_damaged_file_of_embeddings_is_named(tmp_path, content):
    (tmp_path / "0.npy").write_bytes(content)
    (tmp_path / "0.ids.jsonl").write_text(json.dumps({"index": 0}))
    with pytest.raises(UserError, match=r"no embeddings can be read from .*0\.npy"):
        read_embeddings(Piece(str(tmp_path / "0.npy"), 0, 1, "", "0.tar"))
