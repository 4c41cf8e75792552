-- Nodes of Londiste 3 capture by triggers and go on so.
insert into londiste.capture_info (queue_name, capture)
select n.queue_name, 'trigger'
  from pgq_node.node_info n
on conflict do nothing;
