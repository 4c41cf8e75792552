-- pgq._require_read_committed(function): refuse work that needs a fresh snapshot a statement
--   errors   any other isolation level: its snapshot is older than the locks taken for the tick
create or replace function pgq._require_read_committed(i_function text) returns void as $$
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception '% must run in a read committed transaction, not %',
                i_function, current_setting('transaction_isolation')
            using errcode = 'invalid_transaction_state',
                  hint = 'Begin with: begin transaction isolation level read committed';
    end if;
end;
$$ language plpgsql;
