-- Schema pgq_coop: several subconsumers share the batches of one consumer.
--
-- It has no tables. Subconsumer S of consumer M is registered as consumer "M.S"; its row in
-- pgq.subscription has M's sub_id, so that retried events belong to the group. M's row holds the group's
-- position; a subconsumer's row has both ticks while it works on a batch, and none otherwise.

create schema if not exists pgq_coop;
grant usage on schema pgq_coop to public;
