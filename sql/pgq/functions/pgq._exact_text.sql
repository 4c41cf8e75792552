-- pgq._exact_text(row): text of a row whatever the session's settings, to compare rows and to read dates from
--   note     with extra_float_digits below 1, different floats may have the same text; JSON wants dates in ISO 8601
create or replace function pgq._exact_text(i_row anyelement) returns text as $$
    select i_row::text;
$$ language sql stable set extra_float_digits = 3 set datestyle = 'ISO';
