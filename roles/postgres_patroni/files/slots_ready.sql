-- Prints t when this member could take over the logical slot :name, which is of this database, without leaving anything out.
-- A copy of a slot, as Patroni makes on a replica, has the position and not the snapshot that decoding begins with there. The replica writes one of its own,
-- and moves its copy there, when it has passed three records of running transactions with a commit between them (PostgreSQL's snapbuild.c). The leader
-- writes such a record with every checkpoint, and every 15 s while it is written to; one that is idle would write none.
SELECT pg_catalog.pg_is_in_recovery() AS replica, pg_catalog.current_setting('server_version_num')::int >= 150000 AS tells \gset
\if :replica
  \if :tells
SELECT EXISTS (SELECT FROM pg_replication_slots
  WHERE slot_name = :'name' AND replace(restart_lsn::text, '/', '-') || '.snap' IN (SELECT name FROM pg_ls_logicalsnapdir()));
  \else
SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = :'name');
  \endif
\else
SELECT EXISTS (SELECT FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE s.slot_type IS DISTINCT FROM 'logical')
  AS followed \gset
  \if :followed
SELECT FROM pg_logical_emit_message(true, 'cutover', 'nudge');
CHECKPOINT;
SELECT FROM pg_sleep(:round);
SELECT FROM pg_logical_emit_message(true, 'cutover', 'nudge');
CHECKPOINT;
SELECT FROM pg_sleep(:round);
SELECT FROM pg_logical_emit_message(true, 'cutover', 'nudge');
CHECKPOINT;
SELECT FROM pg_sleep(:round);
SELECT FROM pg_logical_emit_message(true, 'cutover', 'nudge');
CHECKPOINT;
  \endif
SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = :'name');
\endif
