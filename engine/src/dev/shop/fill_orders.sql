insert into orders (number, customer_id, state, total, note, placed_at)
select 'N-' || n,
       1 + n % $3::bigint,
       (array['open', 'paid', 'shipped', 'shipped', 'returned'])[1 + n % 5]::order_state,
       round((10 + random() * 900)::numeric, 2),
       case when n % 10 = 0 then 'please ring ' || md5(n::text) end,
       timestamptz '2023-01-01 UTC' + n * interval '20 seconds'
from generate_series($1::bigint, $2::bigint) n
