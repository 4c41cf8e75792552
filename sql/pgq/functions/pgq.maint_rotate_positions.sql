-- pgq.maint_rotate_positions(): let the next table receive positions, after it was emptied
--   (Skytide's addition)
--   returns  0
--   note     does nothing if it is not due, or while somebody holds a lock on the table to be emptied, as
--            pg_dump does: the next round tries again
--   hazard   a table is emptied a whole turn after its positions that still count were copied, so that
--            snapshots of up to 10 minutes see one or the other. A copy keeps its number: a move that is
--            not committed yet has a higher one, and wins
create or replace function pgq.maint_rotate_positions() returns integer as $$
declare
    l_current   smallint;
    l_next      smallint;
    l_retired   smallint;
begin
    perform pgq._require_read_committed('pgq.maint_rotate_positions()');
    select w.pos_table into l_current from pgq.position_switch w for update skip locked;
    if not found or not pgq._positions_are_due() then
        return 0;
    end if;
    l_next := (l_current + 1) % 3;
    l_retired := (l_current + 2) % 3;

    begin
        execute format('lock table pgq.position_%s in access exclusive mode nowait', l_next);
    exception when lock_not_available then
        return 0;
    end;
    -- nothing there should count any more; but a writer may have slept since it read which table to use
    perform pgq._copy_positions(l_next, l_current);
    execute format('truncate pgq.position_%s', l_next);
    perform pgq._copy_positions(l_retired, l_next);
    update pgq.position_switch set pos_table = l_next, switch_time = now();
    return 0;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
