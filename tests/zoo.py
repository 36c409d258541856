"""A database with every kind of object and value that a dump must bring back (cases/zoo.sql)."""

from pathlib import Path

from real_servers import Server

ZOO = Path(__file__).parent / "cases" / "zoo.sql"


def create_zoo_roles(server: Server) -> None:
    """Roles belong to the server: with memberships, settings, and a name that needs quoting."""
    with server.connect() as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = 'zoo_reader'").fetchone() is not None:
            return
        connection.execute("CREATE ROLE zoo_reader; CREATE ROLE \"zoo Owner\" LOGIN PASSWORD 'p' CREATEDB")
        connection.execute(
            'GRANT zoo_reader TO "zoo Owner" WITH ADMIN OPTION; ALTER ROLE zoo_reader SET work_mem = 512'
        )
        connection.execute("GRANT pg_read_all_data TO zoo_reader; COMMENT ON ROLE zoo_reader IS 'reads'")


def create_zoo(server: Server, database: str) -> None:
    create_zoo_roles(server)
    with server.connect(database) as connection:
        connection.execute(ZOO.read_text())
