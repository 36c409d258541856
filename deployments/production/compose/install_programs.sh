# Programs of the image: `sh install_programs.sh 15 16 17`. Without a major version the base is taken to have all of them.
#
# What the distribution does not have comes from PostgreSQL's own archive, whose key the distribution's package holds.
set -eu
if [ $# -eq 0 ]; then
    for program in tini unshare setpriv; do
        command -v "$program" > /dev/null || { echo "The base has no $program, and nothing is installed." >&2; exit 1; }
    done
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends ca-certificates postgresql-common redis-server tini tzdata util-linux
# No cluster of the package's own: the servers that are started here are scratch servers.
mkdir -p /etc/postgresql-common/createcluster.d
echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/keepwell.conf
wanted=
for major in "$@"; do
    wanted="$wanted postgresql-$major"
done
if ! apt-get install -y -qq --simulate $wanted > /dev/null 2>&1; then
    . /etc/os-release
    echo "deb [signed-by=/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc]" \
        "https://apt.postgresql.org/pub/repos/apt $VERSION_CODENAME-pgdg main" > /etc/apt/sources.list.d/pgdg.list
    apt-get update -qq
fi
apt-get install -y -qq --no-install-recommends $wanted
rm -rf /var/lib/apt/lists/*
