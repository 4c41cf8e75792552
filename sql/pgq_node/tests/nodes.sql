-- nodes of a cascade, all in one database under different queues
\pset null '<NULL>'
select * from pgq_node.register_location('q', 'root1', 'dbname=root1', false);
select * from pgq_node.register_location('q', 'root1', null, false);
select * from pgq_node.register_location('q', 'unknown', null, false);
select * from pgq_node.create_node('q', 'trunk', 'root1', 'w', null, null, null);
select * from pgq_node.create_node('q', 'root', 'root1', 'w', 'other', null, null);
select * from pgq_node.create_node('q', 'root', 'nowhere', 'w', null, null, null);
select * from pgq_node.create_node('q', 'root', 'root1', 'root1_worker', null, null, null);
select * from pgq_node.create_node('q', 'root', 'root1', 'root1_worker', null, null, null);
\x
select * from pgq_node.get_node_info('q');
select * from pgq_node.get_node_info('nosuch');
select * from pgq_node.get_worker_state('q');
select * from pgq_node.get_worker_state('nosuch');
\x
select pgq_node.is_root_node('q'), pgq_node.is_leaf_node('q');
select pgq_node.is_root_node('nosuch');

-- subscribers
select * from pgq_node.register_subscriber('q', 'leaf1', 'leaf1_worker', null);
select * from pgq_node.register_location('q', 'leaf1', 'dbname=leaf1', false);
select * from pgq_node.register_subscriber('q', 'leaf1', 'leaf1_worker', null);
select * from pgq_node.register_subscriber('nosuch', 'leaf1', 'leaf1_worker', null);
select * from pgq_node.get_subscriber_info('q');
select pgq.tick_now('q'), pgq.tick_now('q');
select * from pgq_node.set_subscriber_watermark('q', 'leaf1', 2);
select * from pgq_node.set_subscriber_watermark('q', 'leaf1', 2);
select * from pgq_node.set_subscriber_watermark('q', 'leaf1', 1);
select * from pgq_node.set_subscriber_watermark('q', 'nosuch', 2);
select * from pgq_node.set_subscriber_watermark('q', 'leaf1', 99);
select pgq.register_consumer_at('q', 'leaf1_worker', 3);
select global_watermark, local_watermark, worker_last_tick from pgq_node.get_node_info('q');
select * from pgq_node.set_global_watermark('q', null);
select global_watermark, local_watermark from pgq_node.get_node_info('q');
select * from pgq_node.set_global_watermark('nosuch', 1);
select pgq_node.maint_watermark('q');

-- consumers that write here
select * from pgq_node.set_consumer_completed('q', 'root1_worker', 3);
select * from pgq_node.set_consumer_completed('q', 'nosuch', 3);
select * from pgq_node.set_consumer_error('q', 'root1_worker', 'broken');
select * from pgq_node.set_consumer_error('q', 'nosuch', 'broken');
select * from pgq_node.set_consumer_paused('q', 'root1_worker', true);
select * from pgq_node.set_consumer_paused('q', 'root1_worker', true);
select * from pgq_node.set_consumer_paused('q', 'nosuch', true);
select * from pgq_node.set_consumer_uptodate('q', 'root1_worker', true);
select * from pgq_node.set_consumer_uptodate('q', 'nosuch', true);
select * from pgq_node.get_consumer_state('q', 'root1_worker');
select * from pgq_node.get_consumer_state('q', 'nosuch');
select * from pgq_node.set_consumer_paused('q', 'root1_worker', false);
select * from pgq_node.register_consumer('q', 'extra', 'leaf1', 1);
select * from pgq_node.register_consumer('q', 'extra', 'leaf1', 2);
select * from pgq_node.register_consumer('nosuch', 'extra', 'leaf1', 2);
select * from pgq_node.change_consumer_provider('q', 'extra', 'nosuch');
select * from pgq_node.change_consumer_provider('q', 'nosuch', 'leaf1');
select * from pgq_node.change_consumer_provider('q', 'extra', 'leaf1');
select * from pgq_node.get_consumer_info('q');

-- leaving
select * from pgq_node.unregister_location('q', 'root1');
select * from pgq_node.unregister_location('q', 'leaf1');
select * from pgq_node.unregister_consumer('q', 'extra');
select * from pgq_node.unregister_consumer('nosuch', 'extra');
select * from pgq_node.drop_node('q', 'leaf1');
select * from pgq_node.unregister_location('q', 'leaf1');
select * from pgq_node.unregister_subscriber('q', 'leaf1');
select queue_name, consumer_name, last_tick from pgq.get_consumer_info('q');
select ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3 from pgq.event_template order by ev_id;
select * from pgq_node.set_node_attrs('q', 'a=b');
select * from pgq_node.set_node_attrs('nosuch', 'a=b');

-- a branch, and a leaf that merges into it
\o /dev/null
select pgq_node.register_location('b', 'branch1', 'dbname=b', false), pgq_node.register_location('b', 'top', 'dbname=t', false);
select pgq_node.register_location('p', 'part1', 'dbname=b', false), pgq_node.register_location('p', 'ptop', 'dbname=t', false);
\o
select * from pgq_node.create_node('b', 'branch', 'branch1', 'bw', null, 10, null);
select * from pgq_node.create_node('b', 'branch', 'branch1', 'bw', 'top', null, null);
select * from pgq_node.create_node('p', 'leaf', 'part1', 'pw', 'ptop', 5, 'b');
select * from pgq_node.create_node('b', 'branch', 'branch1', 'bw', 'top', 10, null);
select queue_external_ticker, queue_disable_insert from pgq.queue where queue_name = 'b';
select * from pgq_node.create_node('p', 'leaf', 'part1', 'pw', 'ptop', 5, 'b');
select * from pgq_node.register_subscriber('p', 'x', 'xw', null);
select target_for, worker_last_tick, global_watermark, local_watermark from pgq_node.get_node_info('b');
select combined_queue, combined_type, completed_tick, local_watermark, local_queue_top from pgq_node.get_worker_state('p');
select * from pgq_node.set_partition_watermark('b', 'p', 7);
select * from pgq_node.set_partition_watermark('q', 'p', 7);
select * from pgq_node.set_global_watermark('b', null);
select * from pgq_node.set_global_watermark('b', 77);
select * from pgq_node.set_global_watermark('p', 77);

-- the root steps down, the branch steps up
select * from pgq_node.register_location('q', 'new', 'dbname=new', false);
select * from pgq_node.demote_root('q', 2, 'leaf1');
select * from pgq_node.demote_root('q', 1, 'leaf1');
select * from pgq_node.demote_root('q', 2, 'leaf1');
select * from pgq_node.demote_root('q', 4, 'leaf1');
select * from pgq_node.demote_root('q', 3, 'new');
select * from pgq_node.demote_root('q', 1, 'new');
select node_type, provider_node, worker_last_tick from pgq_node.get_node_info('q');
select * from pgq_node.promote_branch('q');
select * from pgq_node.promote_branch('q');
select node_type, provider_node, worker_uptodate from pgq_node.get_node_info('q');

-- the end; a plain queue of the same name is nobody's node
select * from pgq_node.drop_node('q', 'new');
select * from pgq_node.drop_node('q', 'root1');
select * from pgq_node.drop_node('p', 'ptop');
select pgq.create_queue('plain');
select * from pgq_node.drop_node('plain', 'whatever');
select queue_name from pgq.queue order by 1;
