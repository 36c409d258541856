-- Every kind of object and value that a dump must bring back. Runs on PostgreSQL 15 and newer, as a superuser, in an
-- empty database; its roles are made by the test, because they belong to the whole server.
SET client_min_messages = warning;

-- Extensions, one of them in a schema of its own.
CREATE SCHEMA extras;
CREATE EXTENSION hstore SCHEMA extras;
CREATE EXTENSION citext;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION btree_gist;
CREATE EXTENSION postgres_fdw;

-- Names that need quoting, everywhere.
CREATE SCHEMA "Ünïcode Schéma";
CREATE SCHEMA "select";
CREATE TABLE "Ünïcode Schéma"."Täble with ""quotes"" and 'apostrophes'" ("order" int PRIMARY KEY, "Über %s {} col" text);
INSERT INTO "Ünïcode Schéma"."Täble with ""quotes"" and 'apostrophes'" VALUES (1, 'ä'), (2, '雪'), (3, NULL);
CREATE TABLE "select"."from" ("where" int, "group" text, "user" text);
INSERT INTO "select"."from" VALUES (1, 'a', 'b');
CREATE TABLE public."camelCase" ("startDate" timestamptz, "userId" uuid DEFAULT gen_random_uuid());
INSERT INTO public."camelCase" SELECT timestamptz '2024-01-01' + n * interval '1 day' FROM generate_series(1, 5) n;
CREATE TABLE public."line
break; DROP TABLE x; --" (a int);
INSERT INTO public."line
break; DROP TABLE x; --" VALUES (7);

-- Values of every type, with their odd ones.
CREATE TYPE public.mood AS ENUM ('sad', 'it''s ok', 'Happy');
CREATE TYPE public.pair AS (a int, b text);
CREATE DOMAIN public.positive AS int DEFAULT 1 CHECK (VALUE > 0);
CREATE TYPE public.float_range AS RANGE (subtype = float8);
CREATE TABLE public.zoo (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    small smallint, big bigint, exact numeric, exact_scaled numeric(12, 4), single real, double_ double precision,
    cash money, flag boolean, one_char "char", fixed char(5), varying varchar(10), body text, no_case citext,
    bytes bytea, day date, at_ timestamp, at_tz timestamptz, clock time, clock_tz timetz, span interval,
    ident uuid, address inet, network cidr, mac macaddr, bits bit(4), bits_varying bit varying,
    doc json, docb jsonb, words tsvector, search tsquery, place point, shape polygon, spot box,
    feelings mood, both_ pair, above positive, span_int int4range, spans int4multirange, span_f float_range,
    numbers int[], matrix text[][], feelings_list mood[], pairs pair[], attributes extras.hstore,
    table_name regclass, lsn pg_lsn
);
INSERT INTO public.zoo (small, big, exact, exact_scaled, single, double_, cash, flag, one_char, fixed, varying, body,
    no_case, bytes, day, at_, at_tz, clock, clock_tz, span, ident, address, network, mac, bits, bits_varying, doc, docb,
    words, search, place, shape, spot, feelings, both_, above, span_int, spans, span_f, numbers, matrix, feelings_list,
    pairs, attributes, table_name, lsn)
VALUES
    (-32768, 9223372036854775807, 'NaN', 1.5, 'NaN', 'Infinity', 12.34, true, 'x', 'ab', 'é', E'tab\tline\nback\\slash',
     'MiXed', '\x00ff5c2e0a', 'infinity', '-infinity', 'infinity', '24:00', '23:59:59.999999-15:59',
     '1 year -2 mons 3 days -04:05:06.789', '00000000-0000-0000-0000-000000000001', '::1/128', '10.0.0.0/8',
     '08:00:2b:01:02:03', '1010', '', '{"a": 1, "a": 2}', '{"b": [1, null, "\u00e9"]}', 'a:1A b:2', 'a & !b', '(1,2)',
     '((0,0),(1,1),(1,0))', '(1,1),(0,0)', 'it''s ok', ROW (1, E'x\ty'), 5, '[1,5)', '{[1,3),[5,8)}', '[0.1,Infinity)',
     '{1,NULL,3}', '{{a,"b c"},{NULL,""}}', '{sad,Happy}', ARRAY[ROW (1, NULL)::pair, ROW (NULL, '"')::pair],
     'k=>v, "sp ace"=>NULL', 'public.zoo', '16/B374D848'),
    (NULL, NULL, 'Infinity', NULL, '-Infinity', '1e-310', '-0.01', NULL, '', '     ', '', '', '', '', '4713-01-01 BC',
     '294276-12-31 23:59:59.999999', '0001-01-01 00:00:00 BC', '00:00', '00:00+00', 'P0Y', NULL, NULL, NULL, NULL, NULL,
     NULL, 'null', 'null', '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'empty', '{}', '(,)', '{}', '{}', '{}', '{}', '',
     NULL, NULL),
    (0, 0, '123456789012345678901234567890.123456789', 0, '0.1', '-0', 0, false, '\', 'c', 'd', '\.', 'C', '\x5c2e',
     '2000-02-29', '2000-02-29 12:00', '2000-02-29 12:00+14', '12:00', '12:00+14', '-1 days', NULL, '192.168.0.1/24',
     NULL, NULL, '0000', '1', '[]', '[]', NULL, NULL, NULL, NULL, NULL, 'sad', ROW (NULL, NULL), NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL);

-- Rows that look like COPY's own syntax.
CREATE TABLE public.lines (body text, other text);
INSERT INTO public.lines VALUES (E'\\.', NULL), (E'\n\\.\n', E'\\.'), (E'a\r\nb', E'\t'), (E'\\N', NULL), ('', ''),
    (E'\\.\n\n\n', E'\b\f\v\x01'), (NULL, NULL);
CREATE TABLE public.terminators (body text);
INSERT INTO public.terminators VALUES (E'\\.');

-- Tables of odd shapes.
CREATE TABLE public.empty (a int);
CREATE TABLE public.without_columns ();
INSERT INTO public.without_columns SELECT FROM generate_series(1, 4);
CREATE TABLE public.only_generated (a int GENERATED ALWAYS AS (1) STORED);
INSERT INTO public.only_generated SELECT FROM generate_series(1, 3);
CREATE TABLE public.dropped_column (a int, gone text, b text);
INSERT INTO public.dropped_column SELECT n, 'gone', 'b' || n FROM generate_series(1, 10) n;
ALTER TABLE public.dropped_column DROP COLUMN gone;
ALTER TABLE public.dropped_column ADD COLUMN late int DEFAULT 42;
CREATE TABLE public.generated (a int, doubled int GENERATED ALWAYS AS (a * 2) STORED, b text DEFAULT 'x');
INSERT INTO public.generated (a) SELECT generate_series(1, 10);
CREATE UNLOGGED TABLE public.unlogged (a int PRIMARY KEY);
INSERT INTO public.unlogged SELECT generate_series(1, 10);
CREATE TABLE public.duplicates (a text);
INSERT INTO public.duplicates VALUES ('x'), ('x'), ('y');
DO $$
BEGIN
    EXECUTE 'CREATE TABLE public.wide (' || (SELECT string_agg(format('c%s int DEFAULT %s', n, n), ', ')
                                             FROM generate_series(1, 100) n) || ')';
END $$;
INSERT INTO public.wide (c1) SELECT generate_series(1, 20);
CREATE TABLE public.toasted (body text);
ALTER TABLE public.toasted ALTER body SET STORAGE EXTERNAL;
INSERT INTO public.toasted SELECT repeat(chr(65 + n), 20000) FROM generate_series(1, 5) n;

-- Partitions: nested, with a default; inheritance with rows in parent and child.
CREATE TABLE public.events (id int, at_ date NOT NULL, kind text, PRIMARY KEY (id, at_)) PARTITION BY RANGE (at_);
CREATE TABLE public.events_2023 PARTITION OF public.events FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE public.events_2024 PARTITION OF public.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')
    PARTITION BY RANGE (id);
CREATE TABLE public.events_2024_low PARTITION OF public.events_2024 FOR VALUES FROM (0) TO (100);
CREATE TABLE public.events_2024_rest PARTITION OF public.events_2024 DEFAULT;
CREATE TABLE public.events_rest PARTITION OF public.events DEFAULT;
CREATE INDEX ON public.events (kind);
INSERT INTO public.events SELECT n, date '2022-06-01' + n * 3, 'k' || n % 3 FROM generate_series(1, 400) n;
CREATE TABLE public.parent (a int, note text);
CREATE TABLE public.child (b int) INHERITS (public.parent);
INSERT INTO public.parent VALUES (1, 'parent');
INSERT INTO public.child VALUES (2, 'child', 3), (4, 'child', 5);

-- Constraints of every kind.
CREATE TABLE public.tree (id int PRIMARY KEY, up int REFERENCES public.tree DEFERRABLE INITIALLY DEFERRED);
INSERT INTO public.tree SELECT n, CASE WHEN n < 10 THEN n + 1 END FROM generate_series(1, 10) n;
CREATE TABLE public.bookings (room int, during tstzrange, EXCLUDE USING gist (room WITH =, during WITH &&));
INSERT INTO public.bookings SELECT n, tstzrange('2024-01-01', '2024-01-02') FROM generate_series(1, 10) n;
CREATE TABLE public.unchecked (a int);
INSERT INTO public.unchecked VALUES (-1);
ALTER TABLE public.unchecked ADD CONSTRAINT above_zero CHECK (a > 0) NOT VALID;
CREATE TABLE public.circle_a (id int PRIMARY KEY, b int);
CREATE TABLE public.circle_b (id int PRIMARY KEY, a int REFERENCES public.circle_a);
ALTER TABLE public.circle_a ADD FOREIGN KEY (b) REFERENCES public.circle_b DEFERRABLE;
INSERT INTO public.circle_a VALUES (1, NULL);
INSERT INTO public.circle_b VALUES (1, 1);
UPDATE public.circle_a SET b = 1;
CREATE STATISTICS public.related (dependencies, ndistinct) ON c1, c2 FROM public.wide;
CREATE COLLATION public.plain (provider = libc, locale = 'C');
CREATE TABLE public.sorted (a text COLLATE public.plain);
INSERT INTO public.sorted VALUES ('b'), ('A'), ('ä');
CREATE INDEX sorted_index ON public.sorted (a COLLATE "POSIX" DESC NULLS LAST) WHERE a <> '';
CREATE UNIQUE INDEX ON public.zoo ((lower(body)), id);
CREATE INDEX ON public.zoo USING gin (docb);
CREATE INDEX ON public.zoo USING gin (body gin_trgm_ops);
CREATE INDEX ON public.zoo USING brin (at_tz);
CREATE INDEX ON public.zoo USING hash (ident);

-- Views on views, materialized views in both states, rules, triggers, functions.
CREATE VIEW public.happy AS SELECT id, feelings FROM public.zoo WHERE feelings IS NOT NULL;
CREATE VIEW public.happier WITH (security_barrier) AS SELECT count(*) AS n FROM public.happy;
CREATE MATERIALIZED VIEW public.counted AS SELECT kind, count(*) AS n FROM public.events GROUP BY kind;
CREATE UNIQUE INDEX ON public.counted (kind);
CREATE MATERIALIZED VIEW public.counted_twice AS SELECT sum(n) AS n FROM public.counted;
CREATE MATERIALIZED VIEW public.not_yet AS SELECT 1 AS a WITH NO DATA;
CREATE RULE no_deletes AS ON DELETE TO public.lines DO INSTEAD NOTHING;
CREATE FUNCTION public.double_it(n int) RETURNS int IMMUTABLE RETURN n * 2;
CREATE FUNCTION public.atomic(n int) RETURNS SETOF int BEGIN ATOMIC SELECT a FROM public.empty WHERE a = n; END;
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    -- 'quotes', "quotes" and $$ dollars
    NEW.b := coalesce(NEW.b, 'touched');
    RETURN NEW;
END
$body$;
CREATE PROCEDURE public.nothing() LANGUAGE sql AS '';
CREATE AGGREGATE public.total (int) (sfunc = int4pl, stype = int, initcond = '0');
CREATE TRIGGER touching BEFORE INSERT ON public.generated FOR EACH ROW EXECUTE FUNCTION public.touch();
CREATE TRIGGER sleeping BEFORE UPDATE ON public.generated FOR EACH ROW EXECUTE FUNCTION public.touch();
ALTER TABLE public.generated DISABLE TRIGGER sleeping;
CREATE INDEX ON public.empty (public.double_it(a));
CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION 'no changes of the schema today: %', tg_tag;
END
$body$;

-- Sequences: descending, cycling, unused, ahead of their column.
CREATE SEQUENCE public.down INCREMENT -5 MINVALUE -1000 MAXVALUE -1 START -1;
SELECT nextval('public.down'), nextval('public.down');
CREATE SEQUENCE public.round MINVALUE 1 MAXVALUE 3 CYCLE;
SELECT nextval('public.round') FROM generate_series(1, 4);
CREATE SEQUENCE public.unused START 100;
CREATE TABLE public.serials (id serial, n int);
INSERT INTO public.serials (n) SELECT generate_series(1, 7);

-- Row security, privileges, comments, publications, foreign tables, large objects.
CREATE TABLE public.secrets (owner_name text, secret text);
INSERT INTO public.secrets VALUES ('zoo_reader', 'one'), ('somebody', 'two');
ALTER TABLE public.secrets ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.secrets FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON public.secrets FOR SELECT TO zoo_reader USING (owner_name = current_user);
ALTER TABLE public.secrets OWNER TO "zoo Owner";
GRANT SELECT, INSERT ON public.secrets TO zoo_reader WITH GRANT OPTION;
GRANT SELECT (body) ON public.lines TO zoo_reader;
GRANT USAGE ON SCHEMA "select" TO zoo_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA extras GRANT SELECT ON TABLES TO zoo_reader;
COMMENT ON TABLE public.zoo IS E'It''s a "zoo"\nof two lines';
COMMENT ON COLUMN public.zoo.id IS E'the key\u2028with separators\u0085of lines\x0c';
CREATE PUBLICATION changes FOR TABLE public.serials, public.tree WITH (publish = 'insert');
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
CREATE FOREIGN TABLE public.far_away (a int) SERVER elsewhere;
SELECT lo_from_bytea(4242, '\x00010203'), lo_from_bytea(4243, ''), lo_from_bytea(4244, repeat('large', 100000)::bytea);
COMMENT ON LARGE OBJECT 4242 IS 'a large object';

-- Last, because it would refuse what is above.
CREATE EVENT TRIGGER refuse_some ON ddl_command_start WHEN TAG IN ('CREATE EXTENSION', 'DROP TABLE')
    EXECUTE FUNCTION public.refuse();

-- What PostgreSQL words otherwise when it reads its own text again.
CREATE TABLE reworded (
    state varchar(20) DEFAULT 'A' CHECK (state IN ('A', 'B')),
    other varchar(9) CHECK (other <> ALL (ARRAY['x', 'y']::varchar[])),
    at timestamp(3) without time zone DEFAULT now()
);
CREATE INDEX reworded_partly ON reworded (state) WHERE state IN ('A', 'B');
CREATE VIEW reworded_view AS SELECT * FROM reworded WHERE state IN ('A', 'B');
CREATE VIEW reworded_values AS SELECT * FROM (VALUES ('a'::varchar(3), 1), ('b', 2)) AS v (a, b);
INSERT INTO reworded (state, other) VALUES ('A', 'z');
CREATE TYPE temper AS ENUM ('sad', 'happy');
CREATE DOMAIN feeling AS temper DEFAULT 'happy'::temper;
-- A number in a text: the sequence has an owner, whose highest value says nothing.
CREATE SEQUENCE invoice_numbers;
CREATE TABLE invoices (code text DEFAULT 'INV-' || nextval('invoice_numbers'));
ALTER SEQUENCE invoice_numbers OWNED BY invoices.code;
INSERT INTO invoices DEFAULT VALUES;
