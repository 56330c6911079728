#!/usr/bin/env python3
"""The command of the algorithm's registration: the platform's worker around /app/bin/grayscale."""

from medical_image_processing.worker.native import main

main(["/app/bin/grayscale", "--output", "image"])
