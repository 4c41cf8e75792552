-- pgq.set_queue_config(queue, parameter, value): change one setting
--   parameters  ticker_max_count, ticker_max_lag, ticker_idle_period, ticker_paused, rotation_period,
--               external_ticker; Skytide's additions: max_retries, retry_delay, retry_max_delay
--   returns     1
--   errors      Invalid NULL value; No such event queue; cannot change parameter; bad value
--   hazard      ticker_paused and external_ticker wait for a tick that is being made; until the transaction ends the
--               queue gets no other
create or replace function pgq.set_queue_config(x_queue_name text, x_param_name text, x_param_value text)
returns integer as $$
declare
    l_type  text;
    l_queue integer;
begin
    if x_queue_name is null or x_param_name is null then
        raise exception 'Invalid NULL value';
    end if;
    select q.queue_id into l_queue from pgq.queue q where q.queue_name = x_queue_name for update;
    if not found then
        raise exception 'No such event queue';
    end if;
    l_type := case x_param_name
        when 'ticker_max_count' then 'integer'
        when 'ticker_max_lag' then 'interval'
        when 'ticker_idle_period' then 'interval'
        when 'ticker_paused' then 'boolean'
        when 'rotation_period' then 'interval'
        when 'external_ticker' then 'boolean'
        when 'max_retries' then 'integer'
        when 'retry_delay' then 'interval'
        when 'retry_max_delay' then 'interval'
    end;
    if l_type is null then
        raise exception 'cannot change parameter "%"', x_param_name;
    end if;
    if x_param_value is null then
        raise exception 'Invalid NULL value' using errcode = 'null_value_not_allowed';
    end if;
    if x_param_name in ('retry_delay', 'retry_max_delay') and x_param_value::interval < interval '0' then
        raise exception 'parameter "%" must not be negative: %', x_param_name, x_param_value
            using errcode = 'invalid_parameter_value';
    end if;
    if x_param_name in ('ticker_paused', 'external_ticker') then
        perform pgq._lock_ticks(l_queue);
    end if;
    execute format('update pgq.queue set %I = $1::%s where queue_name = $2', 'queue_' || x_param_name, l_type)
        using x_param_value, x_queue_name;
    return 1;
end;
$$ language plpgsql security definer set search_path = pg_catalog, pg_temp;
