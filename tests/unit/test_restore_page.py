import re
from datetime import timedelta
from pathlib import Path

import pytest
from backup_documents import SNAPSHOT, a_database, a_manifest

from keepwell.backup import restore_page
from keepwell.backup.database import Database
from keepwell.backup.restore_page import FolderPlace, Place, render_restore_page

PLACE = Place("http://127.0.0.1:9000", "us-east-1", "backups/prod/esn")
MAIN = a_manifest().main
BY_HAND = (Path(__file__).parents[2] / "docs" / "restore-by-hand.md").read_text()


def blocks(page: str, language: str = "sh") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)


def render(**changes: object) -> str:
    facts: dict[str, object] = {
        "backup_id": "20260302T020000Z-abcdef",
        "platform": "esn",
        "databases": (MAIN,),
        "archive_major": 15,
        "place": PLACE,
        "sealed_for": ("age1one", "age1two"),
        "signed": True,
        "role_passwords": True,
    }
    return render_restore_page(**(facts | changes))  # type: ignore[arg-type]


def changed(source: dict[str, object]) -> Database:
    """The main database with other properties."""
    return MAIN.model_copy(update={"source": MAIN.source.model_copy(update=source)})


def test_a_set_s_own_page_and_the_manual_say_the_same() -> None:
    """All but the set's own names: one test that runs them speaks for both."""
    known, *own = blocks(render())
    manual = blocks(BY_HAND)
    assert "SET=20260302T020000Z-abcdef" in known
    assert "PLACE=backups/prod/esn" in known
    generic, manual[4] = manual[4].removeprefix(restore_page.CREATE_DATABASE), own[4]
    assert own == manual
    assert own[4].endswith(generic)
    assert own[4].startswith("createdb --template=template0 --encoding=UTF8 --lc-collate=C --lc-ctype=C")


def test_the_order_is_the_safety() -> None:
    page = render()
    order = ["openssl pkeyutl -verify", "sha256sum --check", "age --decrypt", "zstd --decompress", "psql", "createdb"]
    places = [page.index(word) for word in [*order, "pg_restore --dbname", "comm -23"]]
    assert places == sorted(places)


def test_says_what_only_the_reader_has_and_holds_no_secret() -> None:
    page = render()
    for name in ("SIGNER", "IDENTITY", "DATABASE", "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY"):
        assert f"- `{name}`:" in page
        assert f"export {name}=" not in page
    assert "age1one, age1two" in page


def test_an_unsealed_set_needs_no_key_and_is_named_as_such() -> None:
    page = render(sealed_for=(), signed=False)
    assert "NOT SIGNED" in page
    assert "nothing of this set is encrypted" in page
    assert not any(word in page for word in ("age --decrypt", "openssl", "IDENTITY", "SIGNER"))


@pytest.mark.parametrize(
    ("source", "option"),
    [
        ({"locale_provider": "i", "locale": "de-AT"}, "--locale-provider=icu --icu-locale=de-AT"),
        ({"locale_provider": "b", "locale": "C.UTF-8"}, "--locale-provider=builtin --builtin-locale=C.UTF-8"),
        ({"owner": "it's; rm -rf /"}, """--owner='it'"'"'s; rm -rf /'"""),
    ],
)
def test_the_database_is_made_like_its_source_whatever_its_names_hold(source: dict[str, object], option: str) -> None:
    assert option in render(databases=(changed(source),))


def test_what_the_archive_lacks_is_said() -> None:
    lacking = changed({"settings": ("work_mem",), "has_grants": True, "undumped": ("subscription s",)})
    page = render(databases=(lacking,), role_passwords=False)
    assert "ALTER DATABASE … SET work_mem, grants on the database itself, subscription s" in page
    assert "Their passwords are NOT in the set" in page
    assert "set by hand" not in render()


def test_a_store_without_an_endpoint_is_amazon_s() -> None:
    page = render(place=Place(None, "eu-central-1", "backups/esn"))
    assert "RCLONE_CONFIG_STORE_PROVIDER=AWS" in page
    assert "ENDPOINT" not in page


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (
            FolderPlace(Path("/mnt/nas share"), "esn"),
            ["PLACE=esn", "RCLONE_CONFIG_STORE_TYPE=alias", "RCLONE_CONFIG_STORE_REMOTE='/mnt/nas share'"],
        ),
        (
            Place("https://s3.elsewhere.example", "eu-1", "copies/esn"),
            [
                "PLACE=copies/esn",
                "RCLONE_CONFIG_STORE_TYPE=s3",
                "RCLONE_CONFIG_STORE_PROVIDER=Other",
                "RCLONE_CONFIG_STORE_REGION=eu-1",
                "RCLONE_CONFIG_STORE_ENDPOINT=https://s3.elsewhere.example",
            ],
        ),
    ],
)
def test_a_second_destination_is_named_and_is_no_step_of_its_own(second: Place | FolderPlace, told: list[str]) -> None:
    page = render(second=second)
    assert blocks(page, "ini") == ["\n".join(f"export {line}" for line in told)]
    assert blocks(page) == blocks(render())
    assert "second destination" not in render()


def test_what_lies_beside_the_database_may_be_told_at_the_end() -> None:
    assert render(more="## Uploaded files\n").endswith("\n\n## Uploaded files\n")


def test_a_set_of_several_databases_restores_each_with_its_own_values() -> None:
    second = a_database("ana; lytics", 2, SNAPSHOT + timedelta(seconds=5))
    second = second.model_copy(update={"source": second.source.model_copy(update={"encoding": "LATIN1"})})
    page = render(databases=(MAIN, second))
    assert "`esn_db` (as of 2026-03-02 02:00:00 UTC) and `ana; lytics` (as of 2026-03-02 02:00:05 UTC)" in page
    assert "--database NAME --into NEW_NAME" in page
    assert "- `DATABASE_2`: name of the new database for `ana; lytics`" in page
    *first, last = blocks(page)
    assert first == blocks(render())
    assert last.startswith(
        'export ARCHIVE=database-2 DATABASE="$DATABASE_2"\ncreatedb --template=template0 --encoding=LATIN1'
    )
    assert last.endswith(f"{restore_page.RESTORE}\n{restore_page.COUNT}")
