"""Images for the production stack, made from this machine's programs: nothing is pulled.

The base stands for python:3.11-slim with every program of the Dockerfile's list; the Dockerfile itself is the real one,
and what it installs comes from the package registry by the lock. The others stand for the official images.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import docker
from docker.errors import BuildError

from deployments.local.images import Recipe, build_image, postgres_recipe
from keepwell.cache.scratch import packaged_program
from keepwell.postgres.binaries import Binaries

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "deployments/production/compose"
BASE, IMAGE = "keepwell-tests/base:of-this-machine", "keepwell-tests/keepwell:under-test"
POSTGRES, REDIS, NGINX = "keepwell-tests/postgres:1", "keepwell-tests/redis:1", "keepwell-tests/nginx:1"
# What the Dockerfile, the entrypoint, and a proof's isolation call.
_PROGRAMS = (
    *("bash", "cat", "chmod", "chown", "cp", "env", "grep", "id", "ln", "ls", "mkdir", "mount", "mv", "nice"),
    *("pivot_root", "readlink", "rm", "setpriv", "sh", "sleep", "tail", "tini", "true", "umount", "unshare"),
)
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# How this machine reaches the package registry, where it is told so.
_REGISTRY = ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")
# Not where this checkout has it: /tmp, say, is empty in every container.
_REDIS_PLACE = Path("/usr/local/bin/redis-server")
_ATTEMPTS = 2
_FOR_ROOT = "/usr/bin:/bin:/usr/sbin:/sbin"
# The official image's client, for what a health check asks.
_REDIS_CLIENT = r"""#!/usr/bin/bash
exec 3<> /dev/tcp/127.0.0.1/6379
printf 'AUTH %s\r\n%s\r\n' "$REDISCLI_AUTH" "$1" >&3
read -r _ <&3 && read -r answer <&3 && echo "${answer#+}"
"""


def build_keepwell(client: docker.DockerClient, binaries: Binaries) -> None:
    """The image of the Dockerfile, on a base of this machine.

    Args:
        client: Of an engine of the tests'.
        binaries: The one PostgreSQL that the image holds.
    """
    build_image(client, _base_recipe(binaries))
    # A registry that is being updated answers wrongly for a moment.
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            client.images.build(
                path=str(PROJECT),
                dockerfile=str((FOLDER / "Dockerfile").relative_to(PROJECT)),
                tag=IMAGE,
                buildargs={"BASE": BASE, "POSTGRES_MAJORS": ""},
                network_mode="host",
                rm=True,
            )
        except BuildError as error:
            if attempt == _ATTEMPTS:
                error.add_note("".join(line.get("stream", "") for line in error.build_log)[-4000:])
                raise
        else:
            return


def _base_recipe(binaries: Binaries) -> Recipe:
    python, standard = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    postgres = postgres_recipe(binaries)
    extensions = tuple((standard / "lib-dynload").glob("*.so"))
    redis = packaged_program()
    assert redis is not None
    trees = {
        standard: standard,
        standard / "ensurepip": standard / "ensurepip",
        _CERTIFICATES: _CERTIFICATES,
        redis: _REDIS_PLACE,
    }
    wheels = Path("/usr/share/python-wheels")
    registry = " ".join(f"{name}={os.environ[name]}" for name in _REGISTRY if name in os.environ)
    return Recipe(
        BASE,
        (*postgres.programs, python, *map(_find, _PROGRAMS)),
        needing=(*extensions, redis),
        trees={**postgres.trees, **trees, **({wheels: wheels} if wheels.is_dir() else {})},
        texts={
            "usr/local/bin/python3": f'#!/bin/sh\nexec {python} "$@"\n',
        },
        instructions=(
            "ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            f"ENV PIP_CERT={_CERTIFICATES} SSL_CERT_FILE={_CERTIFICATES} {registry}",
        ),
    )


def build_others(client: docker.DockerClient, binaries: Binaries) -> None:
    """What the compose files take from official images: PostgreSQL, Redis and nginx."""
    build_image(client, postgres_recipe(binaries, POSTGRES))
    redis = packaged_program()
    assert redis is not None
    build_image(
        client,
        Recipe(
            REDIS,
            tuple(map(_find, ("bash", "sh", "cat", "grep"))),
            needing=(redis,),
            trees={redis: _REDIS_PLACE},
            texts={"usr/local/bin/redis-cli": _REDIS_CLIENT},
            owned={"data": 998},
            instructions=("ENV PATH=/usr/local/bin:/usr/bin:/bin", "WORKDIR /data"),
        ),
    )
    build_image(client, Recipe(NGINX, tuple(map(_find, ("nginx", "sh"))), instructions=("ENV PATH=/usr/sbin:/bin",)))


def _find(name: str) -> Path:
    found = shutil.which(name, path=_FOR_ROOT)
    assert found is not None, f"{name} is not installed"
    return Path(found)
