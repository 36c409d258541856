-- Sequences with the column that draws from each. Their values are not transactional: read before the dump starts,
-- they can only be behind what the dump then reads.
SELECT n.nspname::text AS schema,
       c.relname::text AS name,
       s.seqincrement AS increment,
       s.seqcycle AS cycles,
       pg_catalog.pg_sequence_last_value(c.oid) AS last_value,
       CASE WHEN a.attname IS NOT NULL THEN owner_schema.nspname::text END AS owner_schema,
       CASE WHEN a.attname IS NOT NULL THEN owner.relname::text END AS owner_table,
       a.attname::text AS owner_column
FROM pg_catalog.pg_sequence s
JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_depend d
    ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
    AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
LEFT JOIN pg_catalog.pg_class owner ON owner.oid = d.refobjid
LEFT JOIN pg_catalog.pg_namespace owner_schema ON owner_schema.oid = owner.relnamespace
-- A text column with a number in its default has no highest value to compare.
LEFT JOIN pg_catalog.pg_attribute a
    ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)
WHERE n.nspname <> 'information_schema'
  AND n.nspname NOT LIKE 'pg\_%'
  AND c.relpersistence <> 't'
ORDER BY n.nspname, c.relname
