insert into order_item (order_id, line, sku, quantity, price)
select 1 + n * 2 / 5,
       1 + n - ((n * 2 / 5) * 5 + 1) / 2,
       'SKU-' || lpad((1 + (n * 7919) % $3::bigint)::text, 7, '0'),
       1 + n % 5,
       round((1 + random() * 300)::numeric, 2)
from generate_series($1::bigint - 1, $2::bigint - 1) n
