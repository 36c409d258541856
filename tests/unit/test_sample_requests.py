import pytest

from sample.backend import render_calendar
from sample.frontend import render_page
from sample.graphql_request import GraphQLError, Selection, read_query
from sample.settings import Settings, SettingsError
from sample.throttle import Limit, Throttle

DATABASE_URL = "postgresql://user:p%40ss@127.0.0.1:5432/esn_db"


@pytest.mark.parametrize(
    "query",
    ["{events{id title}}", "query { events { id, title } }", "query All {\n  events { # all\n id\n title } }\n"],
)
def test_plain_selections_are_read(query: str) -> None:
    assert read_query(query) == [Selection("events", [Selection("id"), Selection("title")])]


@pytest.mark.parametrize(
    "query",
    ["", "events", "{", "{}", "{events{id}", "{events{id}}}", "{events(first: 1){id}}", "mutation {pay}", "{a:b}"],
)
def test_anything_else_is_refused(query: str) -> None:
    with pytest.raises(GraphQLError):
        read_query(query)


def test_the_throttle_refuses_the_request_above_the_limit_until_the_window_ends() -> None:
    throttle = Throttle([Limit(2, 1), Limit(3, 60)])
    assert [throttle.admit("one", at) for at in (0.0, 0.1)] == [0, 0]
    assert throttle.admit("one", 0.2) == pytest.approx(0.8)
    assert throttle.admit("other", 0.2) == 0
    assert throttle.admit("one", 1.5) == pytest.approx(58.5)
    assert throttle.admit("one", 60.0) == 0


def test_settings_drop_what_only_prisma_understands() -> None:
    url = f"{DATABASE_URL}?schema=public&connection_limit=20&sslmode=disable"
    settings = Settings.from_environment({"DATABASE_URL": url, "PORT": "0", "SAMPLE_THROTTLE": "off"})
    assert settings.database_url == f"{DATABASE_URL}?sslmode=disable"
    assert (settings.port, settings.throttled, settings.log_format) == (0, False, "nest")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "mysql://127.0.0.1/esn"),
        ("PORT", "70000"),
        ("PORT", "http"),
        ("SAMPLE_LOG_FORMAT", "xml"),
        ("SAMPLE_THROTTLE", "maybe"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({"DATABASE_URL": DATABASE_URL, name: value})


def test_the_calendar_escapes_and_folds() -> None:
    event = {
        "id": "c1",
        "title": "Fado, Tapas; " + "ö" * 60,
        "startDate": "2026-11-20T19:30:00.000Z",
        "endDate": "2026-11-20T22:30:00.000Z",
        "location": "Café \\ Bar",
    }
    calendar = render_calendar([event])
    assert all(len(line.encode()) <= 75 for line in calendar.split("\r\n"))
    assert "DTSTART:20261120T193000Z\r\n" in calendar
    unfolded = calendar.replace("\r\n ", "")
    assert f"SUMMARY:Fado\\, Tapas\\; {'ö' * 60}\r\n" in unfolded
    assert "LOCATION:Café \\\\ Bar\r\n" in unfolded


def test_the_page_names_the_backend_and_nothing_of_the_internet() -> None:
    page = render_page('http://127.0.0.1:4000/"><script>').decode()
    assert 'content="http://127.0.0.1:4000/&quot;&gt;&lt;script&gt;"' in page
    assert "https://" not in page
