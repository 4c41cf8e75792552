-- Older tables know no subconsumers.
select pgq_ext.upgrade_schema();
