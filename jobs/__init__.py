"""Submit folders of car photos for classification and read the results.

from jobs import Client

with Client() as client:
    job = client.submit("photos/")
    job.wait(progress=True)
    for result in job.results(make="BMW", min_confidence=0.8):
        print(result.path, result.label, result.confidence)
"""

from jobs.client import Client, Job
from jobs.errors import CarClassifierError
from jobs.results import Results
from jobs.settings import Settings
from jobs.shapes import Result
from jobs.training import Training

__all__ = ["CarClassifierError", "Client", "Job", "Result", "Results", "Settings", "Training"]
