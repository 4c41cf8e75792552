-- pgq._row_values(row): what the columns' output functions say, taken from the text of a whole row
--   row      row::text; casting a single value to text is not the same for boolean, character(n), inet
--   returns  their texts in order, null for null; more nulls may follow
--   note     a row type of text columns undoes the row's quoting, as no splitting of strings could. It wants
--            an exact number of columns, so the row is filled up
create or replace function pgq._row_values(i_row text) returns text[] as $$
declare
    l_commas    text := regexp_replace(i_row, '"[^"]*"', '', 'g');
    l_count     integer := length(l_commas) - length(replace(l_commas, ',', '')) + 1;
    r           pgq._row_48;
begin
    if i_row = '()' then
        return '{}';
    elsif l_count <= 48 then
        r := (left(i_row, -1) || repeat(',', 48 - l_count) || ')')::pgq._row_48;
        return array[
            r.f1, r.f2, r.f3, r.f4, r.f5, r.f6, r.f7, r.f8, r.f9, r.f10, r.f11, r.f12,
            r.f13, r.f14, r.f15, r.f16, r.f17, r.f18, r.f19, r.f20, r.f21, r.f22, r.f23, r.f24,
            r.f25, r.f26, r.f27, r.f28, r.f29, r.f30, r.f31, r.f32, r.f33, r.f34, r.f35, r.f36,
            r.f37, r.f38, r.f39, r.f40, r.f41, r.f42, r.f43, r.f44, r.f45, r.f46, r.f47, r.f48];
    elsif l_count <= 256 then
        return array(
            select v.value
              from json_each_text(row_to_json((left(i_row, -1) || repeat(',', 256 - l_count) || ')')::pgq._row_256)) v
             limit l_count);
    end if;
    return array(
        select v.value
          from json_each_text(row_to_json((left(i_row, -1) || repeat(',', 1600 - l_count) || ')')::pgq._row_1600)) v
         limit l_count);
end;
$$ language plpgsql immutable strict;
