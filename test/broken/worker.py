"""A worker with one fault, named by its argument; with none of them it is a good one. Runs on mip-base."""

import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import botocore.session
import pydicom
from pydicom.uid import generate_uid

FAULT = sys.argv[1]
SLOW_S = 3.0


def main() -> None:
    session = botocore.session.Session()
    region, endpoint = os.environ["AWS_REGION"], os.environ["AWS_ENDPOINT_URL"]
    sqs, s3 = (session.create_client(name, region_name=region, endpoint_url=endpoint) for name in ("sqs", "s3"))
    if FAULT == "leaks":
        subprocess.run(["env"], check=True)
    while True:
        answer = sqs.receive_message(QueueUrl=os.environ["QUEUE_URL"], WaitTimeSeconds=20)
        for message in answer.get("Messages", []):
            job = json.loads(message["Body"])
            key = f"{job['algo_id']}/{job['job_id']}.dcm"
            s3.put_object(Bucket=os.environ["OUTPUT_BUCKET"], Key=key, Body=result_of(fetch(job["pacs"])))
            sent = {**job, "dicom": {"bucket": os.environ["OUTPUT_BUCKET"], "key": key}}
            sqs.send_message(
                QueueUrl=os.environ["RESULT_QUEUE"],
                MessageBody=json.dumps(sent),
                MessageGroupId=job["job_id"],
                MessageDeduplicationId=job["job_id"],
            )
            sqs.delete_message(QueueUrl=os.environ["QUEUE_URL"], ReceiptHandle=message["ReceiptHandle"])


def fetch(pacs: dict[str, Any]) -> bytes:
    place = "/".join(pacs[part] for part in ("series_id", "image_id"))
    url = f"{os.environ['PACS_API_BASE']}/studies/{pacs['study_id']}/images/{place}"
    request = urllib.request.Request(url, headers={"x-api-key": os.environ["PACS_API_KEY"]})
    with urllib.request.urlopen(request) as answer:
        link = json.load(answer)["url"]
    with urllib.request.urlopen(link) as answer:
        data: bytes = answer.read()
    return data


def result_of(source: bytes) -> bytes:
    if FAULT == "exits":
        print("the model file is missing", file=sys.stderr)
        sys.exit(1)
    elif FAULT == "hangs":
        time.sleep(3600)
    elif FAULT == "is slow":
        time.sleep(SLOW_S)
    elif FAULT == "writes outside /tmp":
        Path("/app/cache.bin").write_bytes(b"")
    elif FAULT == "non-DICOM":
        return b"\x89PNG and so on"
    image = pydicom.dcmread(io.BytesIO(source))
    image.SOPInstanceUID = generate_uid()
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    if FAULT == "wrong output":
        image.StudyInstanceUID = generate_uid()
    made = io.BytesIO()
    image.save_as(made)
    return made.getvalue()


main()
