-- londiste._trigger_name(prefix, queue, suffix): name of a capture trigger
--   returns  <prefix>_londiste_<queue><suffix>; the queue's part is shortened and gets a hash if the name would be
--            longer than PostgreSQL keeps
create or replace function londiste._trigger_name(i_prefix text, i_queue_name text, i_suffix text)
returns text as $$
declare
    l_room  integer := 63 - octet_length(i_prefix || '_londiste_' || i_suffix);
    l_queue text := i_queue_name;
begin
    if octet_length(l_queue) > l_room then
        while octet_length(l_queue) > l_room - 9 loop
            l_queue := left(l_queue, -1);
        end loop;
        l_queue := l_queue || '_' || left(md5(i_queue_name), 8);
    end if;
    return i_prefix || '_londiste_' || l_queue || i_suffix;
end;
$$ language plpgsql immutable strict;
