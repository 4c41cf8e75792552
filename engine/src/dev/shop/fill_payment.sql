insert into payment (order_id, amount, details, paid_at)
select n, round((10 + random() * 900)::numeric, 2),
       jsonb_build_object('method', (array['card', 'transfer', 'cash'])[1 + n % 3], 'reference', md5(n::text)),
       timestamptz '2023-01-01 UTC' + n * interval '20 seconds'
from generate_series($1::bigint, $2::bigint) n
