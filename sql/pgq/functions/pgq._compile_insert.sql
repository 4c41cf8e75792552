-- pgq._compile_insert(queue id): make pgq._insert_event_<id>, which inserts as pgq.insert_event does
--   returns  its name
--   note     the statements are static, so they are planned once a session; in pgq.insert_event the planning is
--            most of the work. Where the queue is not as it was, or wants more than an insert, it calls that one.
--            It outlives the queue, for triggers may still call it. Whoever may execute pgq.insert_event now may
--            execute it; compiled triggers ask for the right on both, so grants and revokes later hold as well
create or replace function pgq._compile_insert(i_queue_id integer) returns text as $$
declare
    q       record;
    a       record;
    l_cases text := '';
    l_body  text;
    l_call  text := format('pgq.%I(text,text,text,text,text,text)', '_insert_event_' || i_queue_id);
begin
    -- two at once would meet at the function's row, and one would fail
    perform pg_advisory_xact_lock(pgq._compile_lock_class(), -i_queue_id);
    select t.queue_name, t.queue_data_pfx, t.queue_ntables into q
      from pgq.queue t
     where t.queue_id = i_queue_id;
    for l_nr in 0 .. q.queue_ntables - 1 loop
        l_cases := l_cases || format($f$
    %s l_table = %s then
        insert into %s (ev_id, ev_time, ev_txid, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4)
        values (l_id, now(), l_txid, i_type, i_data, i_extra1, i_extra2, i_extra3, i_extra4);$f$,
            case l_nr when 0 then 'if' else 'elsif' end, l_nr, pgq.quote_fqname(q.queue_data_pfx || '_' || l_nr));
    end loop;
    -- the body goes in as one literal: names in it must not end it
    l_body := format($f$
declare
    l_txid  bigint := txid_current();   -- before the queue's row is read, see pgq.insert_event_raw
    l_table integer;
    l_id    bigint;
begin
    select t.queue_cur_table, nextval(t.queue_event_seq::regclass) into l_table, l_id
      from pgq.queue t
     where t.queue_name = %1$L and t.queue_id = %2$s and t.queue_ntables = %3$s
       and not t.queue_disable_insert and coalesce(t.queue_per_tx_limit, -1) < 0
       and current_setting('transaction_isolation') = 'read committed';%4$s
    else
        return pgq.insert_event(%1$L, i_type, i_data, i_extra1, i_extra2, i_extra3, i_extra4);
    end if;
    return l_id;
end;
$f$,
        q.queue_name, i_queue_id, q.queue_ntables, l_cases);
    execute format(
        'create or replace'
        || ' function pgq.%I('
        || 'i_type text, i_data text, i_extra1 text, i_extra2 text, i_extra3 text, i_extra4 text) returns bigint as %L '
        || 'language plpgsql security definer set search_path = pg_catalog, pg_temp;',
        '_insert_event_' || i_queue_id, l_body);
    execute format('revoke all on function %s from public', l_call);
    for a in
        select r.verb, quote_ident(pg_get_userbyid(x.grantee)) as role
          from (values ('revoke', l_call),
                       ('grant', 'pgq.insert_event(text,text,text,text,text,text,text)')) r (verb, call)
          join pg_catalog.pg_proc p on p.oid = r.call::regprocedure
         cross join lateral aclexplode(p.proacl) x
         where x.grantee not in (0, p.proowner)
         order by r.verb desc
    loop
        execute format(case a.verb when 'grant' then 'grant execute on function %s to %s'
                                   else 'revoke all on function %s from %s' end, l_call, a.role);
    end loop;
    return '_insert_event_' || i_queue_id;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
