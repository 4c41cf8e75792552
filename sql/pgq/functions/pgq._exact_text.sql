-- pgq._exact_text(row): text of a row that differs when a value differs
--   note     with extra_float_digits below 1, different floats may have the same text
create or replace function pgq._exact_text(i_row anyelement) returns text as $$
    select i_row::text;
$$ language sql stable set extra_float_digits = 3;
