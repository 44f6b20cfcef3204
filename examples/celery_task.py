"""A task of your own Celery app that classifies a folder and works with the results.

`celery -A examples.celery_task worker` runs it beside the workers of this project (its broker is your own: CARS_* only
say where the jobs are), and `classify_listing.delay("s3://photos/listings/4711")` starts it from anywhere.
"""

import os

from celery import Celery

from jobs import Client
from jobs.errors import NoWorkerAlive, WaitTimeout

app = Celery("shop", broker=os.environ.get("SHOP_BROKER_URL", "memory://"))


@app.task(bind=True, acks_late=True, max_retries=None)
def classify_listing(self, folder):
    """Wait for a job. The key makes it the same job on every try, also after this process was killed."""
    with Client() as client:
        job = client.submit(folder, key=f"shop-{self.request.id}", reuse=True)
        try:
            status = job.wait(timeout=60)
        except (WaitTimeout, NoWorkerAlive) as exc:  # it continues: let other tasks have this process meanwhile
            raise self.retry(countdown=30, exc=exc) from exc
        return {
            "job": status.id,
            "state": status.state.value,
            "labels": {result.path: result.label for result in job.results(decision="model")},
        }
