-- Prints t when this member could take over the logical slots in :names (an array as text) without leaving anything out.
-- A copy of a slot, as Patroni makes on a replica, has the position and not the snapshot that decoding begins with there: the replica makes one of its own
-- at the second record of running transactions that it sees. The leader writes such a record with every checkpoint, and every 15 s while it is written to.
SELECT pg_catalog.pg_is_in_recovery() AS replica, pg_catalog.current_setting('server_version_num')::int >= 150000 AS tells \gset
\if :replica
  \if :tells
SELECT count(*) = cardinality(:'names'::text[]) FROM pg_replication_slots
WHERE slot_name::text = ANY (:'names'::text[]) AND replace(restart_lsn::text, '/', '-') || '.snap' IN (SELECT name FROM pg_ls_logicalsnapdir());
  \else
SELECT count(*) = cardinality(:'names'::text[]) FROM pg_replication_slots WHERE slot_name::text = ANY (:'names'::text[]);
  \endif
\else
SELECT EXISTS (SELECT FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE s.slot_type IS DISTINCT FROM 'logical')
  AS followed \gset
  \if :followed
CHECKPOINT;
SELECT FROM pg_sleep(:round);
CHECKPOINT;
SELECT FROM pg_sleep(:round);
CHECKPOINT;
  \endif
SELECT count(*) = cardinality(:'names'::text[]) FROM pg_replication_slots WHERE slot_name::text = ANY (:'names'::text[]);
\endif
