-- pgq._usual_settings(operation): whether the text of a row is all that a trigger needs, see pgq._capture_row
create or replace function pgq._usual_settings(i_op text) returns boolean as $$
    select current_setting('transaction_isolation') = 'read committed'
       and current_setting('datestyle') like 'ISO%'
       and (i_op <> 'UPDATE' or current_setting('extra_float_digits')::integer > 0);
$$ language sql stable;
