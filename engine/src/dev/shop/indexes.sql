-- After the rows: building an index is faster than feeding it.
create unique index customer_email on customer (email);
create index customer_city on customer (city);
create unique index orders_number on orders (number);
create index orders_customer on orders (customer_id, placed_at);
create index orders_open on orders (placed_at) where state = 'open';
create index order_item_sku on order_item (sku);
create unique index payment_order on payment (order_id);
create index payment_paid_at on payment (paid_at);
alter table orders add foreign key (customer_id) references customer;
