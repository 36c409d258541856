-- Every relation that holds data or state and that pg_dump would dump, in the order of their names.
-- Members of extensions are left out, but for the configuration tables whose rows pg_dump carries over.
SELECT c.oid::bigint AS oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind,
       c.relpersistence = 'u' AS unlogged,
       c.relispopulated AS populated,
       -- Without USAGE on its schema a table cannot even be locked, whatever is granted on the table itself.
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS readable,
       c.relrowsecurity
           AND NOT (SELECT r.rolbypassrls OR r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
           AND (c.relforcerowsecurity OR NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')) AS rows_hidden,
       -- A relation that is being dropped has no size any more.
       CASE WHEN c.relkind IN ('r', 'm') THEN coalesce(pg_catalog.pg_total_relation_size(c.oid), 0) ELSE 0 END
           AS size_bytes,
       CASE WHEN c.relkind IN ('r', 'm') THEN coalesce(pg_catalog.pg_table_size(c.oid), 0) ELSE 0 END AS data_bytes,
       ARRAY(
           SELECT a.attname::text
           FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
           ORDER BY a.attnum
       ) AS columns,
       coalesce(configuration.condition, '') AS condition
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT e.extcondition[array_position(e.extconfig, c.oid)] AS condition
    FROM pg_catalog.pg_extension e
    WHERE c.oid = ANY (e.extconfig)
) AS configuration ON true
WHERE c.relkind IN ('r', 'p', 'm', 'f', 'S')
  AND n.nspname <> 'information_schema'
  AND n.nspname NOT LIKE 'pg\_%'
  AND c.relpersistence <> 't'
  AND (
      configuration.condition IS NOT NULL
      OR NOT EXISTS (
          SELECT FROM pg_catalog.pg_depend d
          WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
      )
  )
ORDER BY n.nspname, c.relname
