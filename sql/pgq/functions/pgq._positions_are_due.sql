-- pgq._positions_are_due(): whether it is time for pgq.maint_rotate_positions
--   note     not more often than each 10 minutes: see there
create or replace function pgq._positions_are_due() returns boolean as $$
    select w.switch_time < now() - interval '10 minutes'
       and pg_relation_size(to_regclass('pgq.position_' || w.pos_table)) > 1024 * 1024
      from pgq.position_switch w;
$$ language sql;
