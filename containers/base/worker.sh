#!/bin/sh
# The entry point of images built on mip-base: signals go straight to the worker.
exec python3 -m medical_image_processing.worker "$@"
