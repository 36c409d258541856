--
-- PostgreSQL database cluster dump
--

\restrict e5TIW4V8jGeXbUP8oOFZpYlKcNCf5wVki47if54ghtvrbhBKjluO1OtZexK8PQV

SET default_transaction_read_only = off;

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

--
-- Roles
--

CREATE ROLE postgres;
ALTER ROLE postgres WITH SUPERUSER INHERIT CREATEROLE CREATEDB LOGIN REPLICATION BYPASSRLS PASSWORD 'SCRAM-SHA-256$4096:nhDF7DBqA0A9lzekgZfdyA==$ql3w1VMa3fSaOzZv7g9uKyC38BmTCgyplXXEVsXdi/w=:Vtbbn/ye33QBn2rrZ+GPbvYio58p/hUkUMQHKUmk/LY=';

--
-- User Configurations
--






\unrestrict e5TIW4V8jGeXbUP8oOFZpYlKcNCf5wVki47if54ghtvrbhBKjluO1OtZexK8PQV

--
-- PostgreSQL database cluster dump complete
--

