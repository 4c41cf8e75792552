insert into stock (warehouse, sku, quantity)
select 1 + n % 4, 'SKU-' || lpad((1 + n / 4)::text, 7, '0'), (random() * 10000)::int
from generate_series($1::bigint - 1, $2::bigint - 1) n
