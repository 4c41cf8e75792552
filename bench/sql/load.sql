-- The measured table and the load on it. Rows are what OLTP rows are: a key, some numbers, a short text.
create table load (
    id bigint primary key,
    a  int not null,
    b  int not null,
    v  text not null,
    at timestamptz not null
);
create sequence load_id;
-- A row here is the last change of a load: who sees it has seen the load.
create table mark (id int primary key);

-- changes: how many; per_tx: rows of a transaction; keys: rows the table began with; done: deletes so far,
-- so that no key is deleted twice; shape: mix = 40 % insert, 40 % update, 20 % delete; insert; or
-- hot = updates only, of which 90 % go to 1 % of the keys. Lanes run side by side on keys of their own.
create procedure load_changes(
    changes int, per_tx int, keys int, done int, shape text, lane int, lanes int, inout made bigint)
as $$
declare
    own int := keys / lanes;
    deleted bigint := done;
    key bigint;
    turn int;
begin
    made := 0;
    for i in 1 .. changes loop
        turn := case shape when 'mix' then i % 5 when 'insert' then 0 else 1 end;
        if turn in (0, 2) then
            insert into load values (
                nextval('load_id'), i, lane, 'a new row with some text ' || i, clock_timestamp());
            made := made + 1;
        elsif turn in (1, 3) then
            key := case when shape = 'hot' and random() < 0.9
                then floor(random() * own / 100)::bigint * 100
                else floor(random() * own)::bigint end;
            update load set a = i, v = 'a changed row with some text ' || i
             where id = key * lanes + lane + 1;
            if found then made := made + 1; end if;
        else
            key := deleted * 314159 % own;
            deleted := deleted + 1;
            delete from load where id = key * lanes + lane + 1;
            if found then made := made + 1; end if;
        end if;
        if i % per_tx = 0 then commit; end if;
    end loop;
end;
$$ language plpgsql;
