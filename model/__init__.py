"""What the model is: labels, card, preprocessing, engines, decisions, training. Knows no jobs, database or Celery."""

import os

# onnxruntime reads this once, when it is loaded: else it leaves a device id under ~/.cache and looks a host up to
# report to. Whatever part of this project loads it has loaded this package before; child processes inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
