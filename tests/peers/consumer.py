"""Consumers as users write them: copy events into a table, have some retried once."""

import sys

import pgq


class Copies:
    def process_event(self, db, event):
        if event.ev_extra1 == "again" and event.ev_retry is None:
            event.tag_retry(0)
            return
        db.cursor().execute(
            "insert into copied (job, ev_id, ev_data, ev_retry) values (%s, %s, %s, %s)",
            [self.job_name, event.ev_id, event.ev_data, event.ev_retry],
        )
        event.tag_done()


class Copier(Copies, pgq.Consumer):
    """Alone."""


class SharingCopier(Copies, pgq.CoopConsumer):
    """One of several that share the work."""


if __name__ == "__main__":
    kind = {"alone": Copier, "sharing": SharingCopier}[sys.argv[1]]
    kind("copier", "db", sys.argv[2:]).start()
