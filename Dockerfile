# One image for every service. EXTRAS: cpu,tables,s3 (default); gpu,tables,s3 on a machine with an NVIDIA card;
# cpu,train,tables,s3 for the training worker.
FROM python:3.12-slim

ARG EXTRAS=cpu,tables,s3
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /build
COPY pyproject.toml constraints.txt README.md ./
COPY jobs jobs
COPY model model
COPY workers workers
COPY migrations migrations
RUN pip install --constraint constraints.txt ".[$EXTRAS]" && rm -rf /build/*

# What the service writes (models fetched from the store, logs) goes to a folder of its own user's.
RUN useradd --create-home --uid 10001 cars && mkdir -p /var/lib/cars/models && chown -R cars /var/lib/cars
ENV CARS_HOME=/var/lib/cars
USER cars
WORKDIR /var/lib/cars
CMD ["cars", "worker"]
