"""The platform file of the local stack: the same keys that an operator writes for a real platform."""

import json
import shutil
import sys
from collections.abc import Mapping

from deployments.local import sample_platform
from deployments.local.objectstore import endpoint_url
from deployments.local.objectstore_server import REGION
from deployments.running import orchestrator
from deployments.running.ports import HOST
from deployments.running.postgres_cluster import SUPERUSER
from deployments.running.state import StateFolder, write_private
from keepwell.keyring import IDENTITIES, SIGNING_KEY, make_key_files, make_offline_file

PLATFORM = "esn"
BUCKET = "keepwell"
_DRILLED_PORT = 4000

# Questions whose answers do not depend on the day they are asked.
_SMOKE_QUERIES = {
    "upcoming published events": (
        "SELECT count(*) FROM public.events WHERE status IN ('PUBLISHED', 'REGISTRATION_OPEN') "
        'AND "startDate" > (SELECT max("createdAt") FROM public.events)'
    ),
    "users with an e-mail address": "SELECT count(*) FROM public.users WHERE email LIKE '%@%'",
    "payments that match their registration": (
        'SELECT count(*) FROM public.payments p JOIN public.registrations r ON r.id = p."registrationId" '
        'AND r."userId" = p."userId" AND r."eventId" = p."eventId"'
    ),
}

# Pages that are made of what the database holds.
_SMOKE_PATHS = ({"path": "/calendar/feed", "contains": "BEGIN:VEVENT"},)


def write_platform_file(state: StateFolder, ports: Mapping[str, int]) -> None:
    """Write it anew: ports may have changed. Secrets stay in their own files."""
    state.platform_file.write_text(render_platform_file(state, ports))


def render_platform_file(state: StateFolder, ports: Mapping[str, int]) -> str:
    """The file's text."""
    tables: dict[str, dict[str, object]] = {
        "database": {
            "host": HOST,
            "port": ports[sample_platform.PRODUCTION],
            "name": sample_platform.DATABASE,
            "user": SUPERUSER,
            "password_file": str(state.secret_file("production-password")),
        },
        "bucket": {
            "name": BUCKET,
            "endpoint_url": endpoint_url(ports["objectstore"]),
            "region": REGION,
            "addressing": "path",
            "access_key_id_file": str(state.secret_file("objectstore-access-key-id")),
            "secret_access_key_file": str(state.secret_file("objectstore-secret-access-key")),
        },
        "redis": {
            "host": HOST,
            "port": ports["redis"],
            "password_file": str(state.secret_file("redis-password")),
        },
        "sealing": _seal(state),
        "uploads": {"directory": str(sample_platform.uploads_folder(state))},
        # A full drill starts it on what was restored, in a network of its own.
        "drill": {
            "application_command": [sys.executable, "-m", "sample.backend"],
            "application_environment": ["DATABASE_URL={database_url}", "REDIS_URL={redis_url}", "PORT={port}"],
            "application_port": _DRILLED_PORT,
        },
        # After a swap, the application is asked whether it serves what came back.
        "restore": {
            "base_url": f"http://{HOST}:{ports[sample_platform.BACKEND]}",
            "flush_cache": True,
        },
        "orchestrator": {
            "api_url": orchestrator.api_url(ports[orchestrator.SERVER]),
            "auth_string_file": str(orchestrator.login_file(state)),
        },
    }
    text = "# Written by the local stack at every start: changes here are lost.\n"
    text += _line("name", PLATFORM)
    text += "".join(f"\n[{name}]\n" + _lines(table) for name, table in tables.items())
    for name, query in _SMOKE_QUERIES.items():
        text += "\n[[backup.smoke_queries]]\n" + _lines({"name": name, "sql": query, "at_least": 1})
    for path in _SMOKE_PATHS:
        text += "\n[[restore.smoke_paths]]\n" + _lines(path)
    return text


def _seal(state: StateFolder) -> dict[str, object]:
    """Keys of the stack's own. The offline one lies beside them: for a trial there is nowhere else to take it."""
    folder = state.folder / "secrets" / "sealing"
    made = folder / "recipients.json"
    if not made.exists():
        shutil.rmtree(folder, ignore_errors=True)  # half made by a start that was killed
        keys = make_key_files(folder)
        recipients = [keys.recipient, make_offline_file(folder / "offline-identity.txt", keys.signer)]
        write_private(made, json.dumps(recipients))
    return {
        "recipients": json.loads(made.read_text()),
        "identities_file": str(folder / IDENTITIES),
        "signing_key_file": str(folder / SIGNING_KEY),
    }


def _lines(table: Mapping[str, object]) -> str:
    return "".join(_line(key, value) for key, value in table.items())


def _line(key: str, value: object) -> str:
    """Strings and numbers are written alike in JSON and TOML."""
    return f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
