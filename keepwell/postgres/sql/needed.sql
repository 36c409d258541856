-- Everything that some tables need, directly or not, and what belongs to them; `chosen` is an array of their oids.
-- Extensions, their members and schemas are not followed: they stay where they are.
WITH RECURSIVE member AS (
    SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'
), edge AS (
    SELECT classid, objid, refclassid AS to_class, refobjid AS to_object FROM pg_catalog.pg_depend
    WHERE deptype <> 'e' AND classid <> 0
    UNION ALL
    SELECT refclassid, refobjid, classid, objid FROM pg_catalog.pg_depend
    WHERE deptype IN ('a', 'i', 'P', 'S')
      AND refclassid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass)
      AND classid IN ('pg_catalog.pg_attrdef'::regclass, 'pg_catalog.pg_constraint'::regclass,
                      'pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass,
                      'pg_catalog.pg_statistic_ext'::regclass)
), needed AS (
    SELECT 'pg_catalog.pg_class'::regclass::oid AS classid, chosen.oid AS objid
    FROM pg_catalog.unnest(%(chosen)s::oid[]) AS chosen (oid)
    UNION
    SELECT edge.to_class, edge.to_object
    FROM needed
    JOIN edge ON edge.classid = needed.classid AND edge.objid = needed.objid
    WHERE edge.to_object >= 16384
      AND edge.to_class NOT IN ('pg_catalog.pg_namespace'::regclass, 'pg_catalog.pg_extension'::regclass)
      AND NOT EXISTS (SELECT FROM member WHERE member.classid = edge.to_class AND member.objid = edge.to_object)
)
SELECT o.type, o.schema, o.identity, needed.objid::bigint,
       coalesce(c.relkind IN ('r', 'p', 'v', 'm', 'f'), false) AS is_relation,
       CASE
           -- Row types, arrays and what a range makes for itself move with what they belong to; multiranges do not.
           WHEN needed.classid = 'pg_catalog.pg_type'::regclass THEN
               (t.typrelid = 0 OR of_type.relkind = 'c')
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)
           WHEN needed.classid = 'pg_catalog.pg_class'::regclass THEN c.relkind IN ('r', 'p', 'S')
           WHEN needed.classid = 'pg_catalog.pg_proc'::regclass THEN NOT EXISTS (
               SELECT FROM pg_catalog.pg_depend d
               WHERE d.classid = needed.classid AND d.objid = needed.objid AND d.deptype = 'i')
           ELSE true
       END AS moves_alone,
       coalesce((
           SELECT pg_catalog.jsonb_object_agg(e.extname, n.nspname)
           FROM pg_catalog.pg_depend d
           JOIN pg_catalog.pg_depend m ON m.classid = d.refclassid AND m.objid = d.refobjid AND m.deptype = 'e'
           JOIN pg_catalog.pg_extension e ON e.oid = m.refobjid
           JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
           WHERE d.classid = needed.classid AND d.objid = needed.objid
       ), '{}') AS extensions
FROM needed
LEFT JOIN pg_catalog.pg_class c ON needed.classid = 'pg_catalog.pg_class'::regclass AND c.oid = needed.objid
LEFT JOIN pg_catalog.pg_type t ON needed.classid = 'pg_catalog.pg_type'::regclass AND t.oid = needed.objid
LEFT JOIN pg_catalog.pg_class of_type ON of_type.oid = t.typrelid,
     LATERAL pg_catalog.pg_identify_object(needed.classid, needed.objid, 0) o
WHERE o.schema IS DISTINCT FROM 'pg_toast'
ORDER BY o.type, o.identity
