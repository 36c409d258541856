-- The schema as lines (kind, object, definition), so that two databases can be compared and a difference named.
-- Everything is told by name, nothing by oid. Members of extensions are left to their extension's version.
WITH member AS (
    SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'
),
schemas AS (
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl
    FROM pg_catalog.pg_namespace n
    WHERE n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%'
),
relations AS (
    SELECT c.*, format('%I.%I', s.nspname, c.relname) AS identity
    FROM pg_catalog.pg_class c
    JOIN schemas s ON s.oid = c.relnamespace
    WHERE c.relpersistence <> 't'
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_catalog.pg_class'::regclass AND m.objid = c.oid)
),
lines AS (
    SELECT 'extension' AS kind, quote_ident(e.extname) AS identity, 'in ' || quote_ident(n.nspname) AS definition
    FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
    UNION ALL
    SELECT 'schema', quote_ident(nspname), 'owner ' || pg_catalog.pg_get_userbyid(nspowner) FROM schemas
    UNION ALL
    SELECT 'relation', identity,
           concat_ws(' ', relkind, relpersistence, 'owner', pg_catalog.pg_get_userbyid(relowner), 'options',
                     (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(reloptions) o), 'row security',
                     relrowsecurity, relforcerowsecurity, 'replica identity', relreplident,
                     'bound', pg_catalog.pg_get_expr(relpartbound, oid), 'key',
                     CASE WHEN relkind = 'p' THEN pg_catalog.pg_get_partkeydef(oid) END)
    FROM relations WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
    UNION ALL
    SELECT 'column', r.identity || '.' || quote_ident(a.attname),
           concat_ws(' ', pg_catalog.format_type(a.atttypid, a.atttypmod),
                     CASE WHEN a.attnotnull THEN 'not null' END, 'identity', a.attidentity, 'generated', a.attgenerated,
                     'default', pg_catalog.pg_get_expr(d.adbin, d.adrelid),
                     CASE WHEN a.attcollation <> t.typcollation THEN 'collate ' || a.attcollation::regcollation::text END)
    FROM pg_catalog.pg_attribute a
    JOIN relations r ON r.oid = a.attrelid AND r.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'constraint', coalesce(r.identity, c.contypid::regtype::text) || ' ' || quote_ident(c.conname),
           pg_catalog.pg_get_constraintdef(c.oid)
    FROM pg_catalog.pg_constraint c
    LEFT JOIN relations r ON r.oid = c.conrelid
    LEFT JOIN pg_catalog.pg_type t ON t.oid = c.contypid
    -- Named not-null constraints came with version 18; the column says the same in every version.
    WHERE c.contype <> 'n'
      AND (r.oid IS NOT NULL
           OR (t.typnamespace IN (SELECT oid FROM schemas)
               AND NOT EXISTS (SELECT FROM member m
                               WHERE m.classid = 'pg_catalog.pg_type'::regclass AND m.objid = t.oid)))
    UNION ALL
    SELECT 'index', r.identity, pg_catalog.pg_get_indexdef(i.indexrelid) || ' clustered ' || i.indisclustered
    FROM pg_catalog.pg_index i JOIN relations r ON r.oid = i.indexrelid
    -- pg_dump does not carry invalid indexes over.
    WHERE i.indisvalid OR r.relkind = 'I'
    UNION ALL
    SELECT 'sequence', r.identity,
           concat_ws(' ', s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)
    FROM pg_catalog.pg_sequence s JOIN relations r ON r.oid = s.seqrelid
    UNION ALL
    SELECT 'inheritance', child.identity, 'from ' || parent.identity || ' ' || i.inhseqno
    FROM pg_catalog.pg_inherits i
    JOIN relations child ON child.oid = i.inhrelid AND child.relkind IN ('r', 'p', 'f')
    JOIN relations parent ON parent.oid = i.inhparent
    UNION ALL
    SELECT 'enum', t.oid::regtype::text, string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder)
    FROM pg_catalog.pg_enum e JOIN pg_catalog.pg_type t ON t.oid = e.enumtypid
    WHERE t.typnamespace IN (SELECT oid FROM schemas)
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_catalog.pg_type'::regclass AND m.objid = t.oid)
    GROUP BY t.oid
    UNION ALL
    SELECT 'type', t.oid::regtype::text,
           concat_ws(' ', t.typtype, 'owner', pg_catalog.pg_get_userbyid(t.typowner), 'base',
                     CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END,
                     CASE WHEN t.typnotnull THEN 'not null' END, 'default', pg_catalog.pg_get_expr(t.typdefaultbin, 0), 'range of', g.rngsubtype::regtype)
    FROM pg_catalog.pg_type t
    LEFT JOIN pg_catalog.pg_range g ON g.rngtypid = t.oid
    WHERE t.typnamespace IN (SELECT oid FROM schemas) AND t.typtype IN ('d', 'e', 'r')
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_catalog.pg_type'::regclass AND m.objid = t.oid)
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text,
           'owner ' || pg_catalog.pg_get_userbyid(p.proowner) || ' ' || CASE
               WHEN p.prokind = 'a' THEN 'aggregate'
               WHEN p.prosqlbody IS NOT NULL THEN pg_catalog.pg_get_function_arguments(p.oid)
               ELSE pg_catalog.pg_get_functiondef(p.oid)
           END
    FROM pg_catalog.pg_proc p
    WHERE p.pronamespace IN (SELECT oid FROM schemas)
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_catalog.pg_proc'::regclass AND m.objid = p.oid)
      -- Range types make their constructors themselves.
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
    UNION ALL
    SELECT 'view', identity, pg_catalog.pg_get_viewdef(oid) FROM relations WHERE relkind IN ('v', 'm')
    UNION ALL
    SELECT 'rule', r.identity || ' ' || quote_ident(w.rulename), w.ev_enabled::text || ' ' || pg_catalog.pg_get_ruledef(w.oid)
    FROM pg_catalog.pg_rewrite w JOIN relations r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
    UNION ALL
    SELECT 'trigger', r.identity || ' ' || quote_ident(t.tgname), t.tgenabled::text || ' ' || pg_catalog.pg_get_triggerdef(t.oid)
    FROM pg_catalog.pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'event trigger', quote_ident(e.evtname),
           concat_ws(' ', e.evtevent, e.evtenabled, e.evtfoid::regprocedure, array_to_string(e.evttags, ','))
    FROM pg_catalog.pg_event_trigger e
    WHERE NOT EXISTS (SELECT FROM member m
                      WHERE m.classid = 'pg_catalog.pg_event_trigger'::regclass AND m.objid = e.oid)
    UNION ALL
    SELECT 'policy', r.identity || ' ' || quote_ident(p.polname),
           concat_ws(' ', p.polcmd, p.polpermissive, 'to',
                     (SELECT string_agg(CASE WHEN role = 0 THEN 'public' ELSE pg_catalog.pg_get_userbyid(role) END, ','
                                        ORDER BY pg_catalog.pg_get_userbyid(role)) FROM unnest(p.polroles) role),
                     'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid),
                     'check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
    FROM pg_catalog.pg_policy p JOIN relations r ON r.oid = p.polrelid
    UNION ALL
    SELECT 'statistics', quote_ident(s.nspname) || '.' || quote_ident(x.stxname),
           pg_catalog.pg_get_statisticsobjdef(x.oid)
    FROM pg_catalog.pg_statistic_ext x JOIN schemas s ON s.oid = x.stxnamespace
    UNION ALL
    SELECT 'publication', quote_ident(p.pubname),
           concat_ws(' ', p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate)
    FROM pg_catalog.pg_publication p
    UNION ALL
    SELECT 'grant', r.identity,
           concat_ws(' ', CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
                     a.privilege_type, a.is_grantable)
    FROM relations r,
         LATERAL pg_catalog.aclexplode(coalesce(
             r.relacl, pg_catalog.acldefault(CASE WHEN r.relkind = 'S' THEN 's' ELSE 'r' END::"char", r.relowner))) a
    WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL
    SELECT 'grant', quote_ident(n.nspname),
           concat_ws(' ', CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
                     a.privilege_type, a.is_grantable)
    FROM schemas n,
         LATERAL pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) a
    UNION ALL
    SELECT 'comment', object.type || ' ' || object.identity, d.description
    FROM pg_catalog.pg_description d
    JOIN relations r ON d.classoid = 'pg_catalog.pg_class'::regclass AND d.objoid = r.oid,
         LATERAL pg_catalog.pg_identify_object(d.classoid, d.objoid, d.objsubid) object
    UNION ALL
    SELECT 'grant', r.identity || '.' || quote_ident(c.attname),
           concat_ws(' ', CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
                     a.privilege_type, a.is_grantable)
    FROM pg_catalog.pg_attribute c
    JOIN relations r ON r.oid = c.attrelid, LATERAL pg_catalog.aclexplode(c.attacl) a
    WHERE c.attnum > 0 AND NOT c.attisdropped
    UNION ALL
    SELECT 'grant', p.oid::regprocedure::text,
           concat_ws(' ', CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
                     a.privilege_type, a.is_grantable)
    FROM pg_catalog.pg_proc p,
         LATERAL pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
    WHERE p.pronamespace IN (SELECT oid FROM schemas)
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_catalog.pg_proc'::regclass AND m.objid = p.oid)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
    UNION ALL
    SELECT 'default grant',
           concat_ws(' ', pg_catalog.pg_get_userbyid(d.defaclrole), quote_ident(n.nspname), d.defaclobjtype),
           concat_ws(' ', CASE WHEN a.grantee = 0 THEN 'public' ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
                     a.privilege_type, a.is_grantable)
    FROM pg_catalog.pg_default_acl d
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace, LATERAL pg_catalog.aclexplode(d.defaclacl) a
    UNION ALL
    SELECT 'foreign server', quote_ident(s.srvname),
           concat_ws(' ', w.fdwname, s.srvtype, s.srvversion, 'owner', pg_catalog.pg_get_userbyid(s.srvowner))
    FROM pg_catalog.pg_foreign_server s JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
    UNION ALL
    SELECT 'operator', o.oid::regoperator::text, o.oprcode::regprocedure::text
    FROM pg_catalog.pg_operator o
    WHERE o.oprnamespace IN (SELECT oid FROM schemas)
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_catalog.pg_operator'::regclass AND m.objid = o.oid)
    UNION ALL
    SELECT 'text search configuration', quote_ident(s.nspname) || '.' || quote_ident(c.cfgname),
           pg_catalog.pg_get_userbyid(c.cfgowner)
    FROM pg_catalog.pg_ts_config c JOIN schemas s ON s.oid = c.cfgnamespace
    WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_catalog.pg_ts_config'::regclass AND m.objid = c.oid)
    UNION ALL
    SELECT 'published table', quote_ident(p.pubname) || ' ' || r.identity, ''
    FROM pg_catalog.pg_publication_rel t
    JOIN pg_catalog.pg_publication p ON p.oid = t.prpubid
    JOIN relations r ON r.oid = t.prrelid
)
SELECT kind, identity, definition FROM lines ORDER BY kind COLLATE "C", identity COLLATE "C", definition COLLATE "C"
