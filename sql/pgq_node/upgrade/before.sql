-- Tables of older versions, brought to the form that tables.sql goes on from.
alter table pgq_node.node_info add column if not exists node_attrs text;
