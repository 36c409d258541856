-- What a database is made of, as far as a restored copy can be compared with it.
SELECT d.datname::text AS name,
       pg_catalog.pg_encoding_to_char(d.encoding)::text AS encoding,
       d.datcollate::text AS collate,
       d.datctype::text AS ctype,
       d.datlocprovider::text AS locale_provider,
       d.datcollversion::text AS collation_version,
       -- Renamed in version 17.
       coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale') AS locale,
       pg_catalog.pg_get_userbyid(d.datdba)::text AS owner,
       d.datacl IS NOT NULL AS has_grants,
       ARRAY(
           SELECT pg_catalog.split_part(setting, '=', 1)
           FROM pg_catalog.pg_db_role_setting s, LATERAL pg_catalog.unnest(s.setconfig) AS setting
           WHERE s.setdatabase = d.oid
           ORDER BY 1
       ) AS settings,
       pg_catalog.pg_database_size(d.oid) AS size_bytes,
       pg_catalog.current_setting('server_version_num')::int AS server_version_number,
       pg_catalog.current_setting('server_version') AS server_version,
       pg_catalog.pg_is_in_recovery() AS standby,
       now() AS now_at
FROM pg_catalog.pg_database d
WHERE d.datname = current_database()
