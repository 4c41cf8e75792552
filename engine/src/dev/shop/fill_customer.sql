insert into customer (email, name, city, status, preferences, credit, created_at)
select 'customer' || n || '@example.net',
       (array['Ada', 'Ben', 'Chi', 'Dana', 'Eve', 'Finn', 'Gita', 'Hugo'])[1 + n % 8] || ' ' || md5(n::text),
       nullif((array['Berlin', 'Lyon', 'Oslo', 'Porto', 'Riga', 'Turin', ''])[1 + n % 7], ''),
       (array['new', 'active', 'active', 'blocked'])[1 + n % 4]::customer_status,
       jsonb_build_object('newsletter', n % 3 = 0, 'language', (array['de', 'fr', 'en'])[1 + n % 3]),
       round((random() * 500)::numeric, 2),
       timestamptz '2020-01-01 UTC' + n * interval '1 minute'
from generate_series($1::bigint, $2::bigint) n
