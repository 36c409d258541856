"""A set's roles in the encoding of the database that pg_dumpall was connected to."""

import pytest

from keepwell.errors import PreconditionFailed
from keepwell.restore.roles import decode_script

SCRIPT = "SET client_encoding = '{}';\nCREATE ROLE \"müller\";\n"


@pytest.mark.parametrize(("named", "codec"), [("UTF8", "utf-8"), ("LATIN1", "latin-1"), ("WIN1252", "cp1252")])
def test_it_is_read_as_it_says(named: str, codec: str) -> None:
    script = SCRIPT.format(named)
    assert decode_script(script.encode(codec)) == script


def test_what_cannot_be_read_gets_its_sentence() -> None:
    for named in ("UTF8", "MULE_INTERNAL"):
        with pytest.raises(PreconditionFailed, match="encoding that is not known"):
            decode_script(SCRIPT.format(named).encode("latin-1"))
