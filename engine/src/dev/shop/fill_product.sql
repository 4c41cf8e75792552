insert into product (sku, title, price, tags, attributes)
select 'SKU-' || lpad(n::text, 7, '0'),
       'Product ' || n,
       round((1 + random() * 300)::numeric, 2),
       array['tag' || n % 11, 'tag' || n % 13],
       jsonb_build_object('weight', n % 100, 'description', repeat(md5(n::text), 1 + (n % 8)::int))
from generate_series($1::bigint, $2::bigint) n
