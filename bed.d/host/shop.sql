-- Run on both sides. Every purchase changes an account by its amount, in one transaction: so the sums agree, always.
create table account (
    id int primary key,
    balance bigint not null default 0,
    changes bigint not null default 0
);
create table purchase (
    client int,
    seq bigint,
    account int not null,
    amount int not null,
    note text,
    at timestamptz not null default clock_timestamp(),
    primary key (client, seq)
);
alter table account owner to shop;
alter table purchase owner to shop;
grant select, insert, update on account, purchase to app;
