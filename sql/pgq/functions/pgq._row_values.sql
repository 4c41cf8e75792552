-- pgq._row_values(row): what the columns' output functions say, taken from the text of a whole row
--   row      row::text; casting a single value to text is not the same for boolean, character(n), inet
--   returns  their texts in order, null for null; more nulls may follow
--   note     a row type of text columns undoes the row's quoting, as no splitting of strings could. It wants
--            an exact number of columns, so the row is filled up. Small types for small rows, as they are cheaper
create or replace function pgq._row_values(i_row text) returns text[] as $$
declare
    l_commas    text := regexp_replace(i_row, '"[^"]*"', '', 'g');
    l_count     integer := length(l_commas) - length(replace(l_commas, ',', '')) + 1;
    r8          pgq._row_8;
    r16         pgq._row_16;
    r48         pgq._row_48;
begin
    if i_row = '()' then
        return '{}';
    elsif l_count <= 8 then
        r8 := (left(i_row, -1) || repeat(',', 8 - l_count) || ')')::pgq._row_8;
        return array[
            r8.f1, r8.f2, r8.f3, r8.f4, r8.f5, r8.f6, r8.f7, r8.f8];
    elsif l_count <= 16 then
        r16 := (left(i_row, -1) || repeat(',', 16 - l_count) || ')')::pgq._row_16;
        return array[
            r16.f1, r16.f2, r16.f3, r16.f4, r16.f5, r16.f6, r16.f7, r16.f8,
            r16.f9, r16.f10, r16.f11, r16.f12, r16.f13, r16.f14, r16.f15, r16.f16];
    elsif l_count <= 48 then
        r48 := (left(i_row, -1) || repeat(',', 48 - l_count) || ')')::pgq._row_48;
        return array[
            r48.f1, r48.f2, r48.f3, r48.f4, r48.f5, r48.f6, r48.f7, r48.f8,
            r48.f9, r48.f10, r48.f11, r48.f12, r48.f13, r48.f14, r48.f15, r48.f16,
            r48.f17, r48.f18, r48.f19, r48.f20, r48.f21, r48.f22, r48.f23, r48.f24,
            r48.f25, r48.f26, r48.f27, r48.f28, r48.f29, r48.f30, r48.f31, r48.f32,
            r48.f33, r48.f34, r48.f35, r48.f36, r48.f37, r48.f38, r48.f39, r48.f40,
            r48.f41, r48.f42, r48.f43, r48.f44, r48.f45, r48.f46, r48.f47, r48.f48];
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
