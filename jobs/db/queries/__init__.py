"""Every SQL statement of the project, by subject. Functions take an open connection; transactions belong to the caller.

Locks are always taken in one order, so that no two transactions wait for each other: predictions (by content hash),
schedule, job, batches, images, rows of the ledger.
"""
