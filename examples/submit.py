"""Submit a folder, wait for it, look at the results: `python examples/submit.py photos/` beside a running worker."""

import sys

from jobs import Client

with Client() as client:  # CARS_* from the environment; or Client(database_url=…, broker_url=…)
    job = client.submit(sys.argv[1], top_k=5)
    job.wait(progress=True)
    for result in job.results(decision="model", min_confidence=0.8):
        print(result.path, result.label, f"{result.confidence:.0%}")
    frame = client.results(since="2026-01-01").to_pandas()
    print(frame.groupby("make").size().sort_values(ascending=False).head(10))
