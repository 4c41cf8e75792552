-- londiste.execute_start(queue, file, sql, expect root, attributes): note that a SQL file is run, once
--   codes    200 run it; 201 was run, skip it; 401 not the root
--   errors   queue does not exist
--   note     start, the SQL and londiste.execute_finish belong in one transaction
create or replace function londiste.execute_start(
    in i_queue_name text, in i_file_name text, in i_sql text, in i_expect_root boolean, in i_attrs text,
    out ret_code integer, out ret_note text)
as $$
begin
    if not pgq_node.is_root_node(i_queue_name) and i_expect_root then
        ret_code := 401;
        ret_note := 'Node is not root node: ' || i_queue_name;
        return;
    end if;
    insert into londiste.applied_execute (queue_name, execute_file, execute_sql, execute_attrs)
    values (i_queue_name, i_file_name, i_sql, i_attrs)
    on conflict (execute_file) do nothing;
    if not found then
        ret_code := 201;
        ret_note := 'EXECUTE: "' || i_file_name || '" already applied, skipping';
        return;
    end if;
    ret_code := 200;
    ret_note := 'Executing: ' || i_file_name;
end;
$$ language plpgsql;

-- londiste.execute_start(queue, file, sql, expect root): the same without attributes
create or replace function londiste.execute_start(
    in i_queue_name text, in i_file_name text, in i_sql text, in i_expect_root boolean,
    out ret_code integer, out ret_note text)
as $$
begin
    select f.ret_code, f.ret_note into ret_code, ret_note
      from londiste.execute_start(i_queue_name, i_file_name, i_sql, i_expect_root, null) f;
end;
$$ language plpgsql;
