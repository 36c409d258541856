-- What the role of this session may do beyond reading, in the connected database and on its server.
WITH me AS (SELECT * FROM pg_catalog.pg_roles WHERE rolname = current_user),
tables AS (
    SELECT c.oid::regclass::text AS name
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
      AND pg_catalog.has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
    ORDER BY 1
)
SELECT me.rolname::text AS role,
       me.rolsuper AS superuser,
       me.rolcreaterole AS creates_roles,
       me.rolconnlimit AS connection_limit,
       ARRAY(SELECT name FROM tables LIMIT 3) AS writable_tables,
       (SELECT count(*) FROM tables) AS writable_count,
       ARRAY(
           SELECT nspname::text FROM pg_catalog.pg_namespace
           WHERE nspname NOT LIKE 'pg\_%' AND pg_catalog.has_schema_privilege(oid, 'CREATE') ORDER BY 1
       ) AS writable_schemas,
       ARRAY(
           SELECT p.rolname::text FROM pg_catalog.pg_roles p
           WHERE (p.rolsuper OR p.rolname IN ('pg_write_all_data', 'pg_write_server_files', 'pg_read_server_files',
                                              'pg_execute_server_program'))
             AND pg_catalog.pg_has_role(me.oid, p.oid, 'MEMBER') ORDER BY 1
       ) AS powers,
       ARRAY(
           SELECT d.datname::text FROM pg_catalog.pg_database d
           WHERE d.datallowconn AND NOT d.datistemplate AND pg_catalog.has_database_privilege(d.oid, 'CONNECT')
             AND pg_catalog.pg_has_role(me.oid, 'pg_read_all_data', 'MEMBER') ORDER BY 1
       ) AS other_databases,
       pg_catalog.current_setting('max_connections')::int
           - pg_catalog.current_setting('superuser_reserved_connections')::int
           - (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')::int
           AS free_connections
FROM me
