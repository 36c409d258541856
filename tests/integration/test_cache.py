from urllib.parse import urlsplit

import pytest

from keepwell.cache import read_facts
from keepwell.doctor.surroundings import examine_cache
from keepwell.errors import AccessDenied, ServiceUnavailable
from keepwell.settings import Platform, RedisSettings
from keepwell.verdict import Verdict


@pytest.fixture
def settings(redis_url: str) -> RedisSettings:
    parts = urlsplit(redis_url)
    return RedisSettings.model_validate({"host": parts.hostname, "port": parts.port, "password": parts.password})


def test_the_cache_answers_with_the_real_login(settings: RedisSettings) -> None:
    facts = read_facts(settings)
    assert facts.version


@pytest.mark.parametrize("password", ["wrong", None])
def test_a_wrong_or_missing_password_is_refused(settings: RedisSettings, password: str | None) -> None:
    wrong = RedisSettings.model_validate({"host": settings.host, "port": settings.port, "password": password})
    with pytest.raises(AccessDenied) as caught:
        read_facts(wrong)
    assert "redis.password_file" in caught.value.hint


def test_a_cache_that_is_down_is_an_alert() -> None:
    settings = RedisSettings(port=1)
    with pytest.raises(ServiceUnavailable):
        read_facts(settings, timeout_seconds=2)
    (found,) = examine_cache(Platform.model_construct(name="esn", redis=settings))
    assert found.verdict is Verdict.ALERT


def test_no_cache_configured() -> None:
    (found,) = examine_cache(Platform.model_construct(name="esn", redis=None))
    assert found.verdict is Verdict.NOT_APPLICABLE
