#!/usr/bin/env python3
"""A native algorithm on the platform with nothing but boto3 and requests: copy this file and change `run`.

Jobs come from a queue; the job's DICOM comes from the PACS API; the program makes a file of it; the file goes to
the output bucket, and a message about it to the results queue. Only then is the job deleted: if this container
dies before, another one gets the job again.
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
import uuid
from pathlib import Path

import boto3
import requests

QUEUE_URL, RESULT_QUEUE, OUTPUT_BUCKET, ALGO_ID, PACS_API_BASE = (
    os.environ[name] for name in ("QUEUE_URL", "RESULT_QUEUE", "OUTPUT_BUCKET", "ALGO_ID", "PACS_API_BASE")
)
PACS_KEY = {"x-api-key": os.environ.get("PACS_API_KEY", "")}
PROGRAM = os.environ.get("PROGRAM", "/app/bin/my_openmp")
LEASE_S = 60  # a job is hidden from other containers for this long; we ask for more while we work
TIMEOUT_S = 900

sqs, s3 = boto3.client("sqs"), boto3.client("s3")
stopping = threading.Event()


def main():
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())  # the job at hand is finished first
    while not stopping.is_set():
        got = sqs.receive_message(QueueUrl=QUEUE_URL, WaitTimeSeconds=5, VisibilityTimeout=LEASE_S)
        for message in got.get("Messages", []):
            handle(message)


def handle(message):
    job = json.loads(message["Body"])
    done = threading.Event()
    threading.Thread(target=keep, args=(message["ReceiptHandle"], done), daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            result, key = Path(folder) / "output.dcm", output_key(job)
            run(job, fetch(job["pacs"], Path(folder) / "input"), result)
            s3.upload_file(str(result), OUTPUT_BUCKET, key, ExtraArgs={"ContentType": "application/dicom"})
        report(job, status="SUCCEEDED", dicom={"bucket": OUTPUT_BUCKET, "key": key})
    except (requests.ConnectionError, requests.Timeout):
        return  # nobody's fault: the job comes back when its lease ends
    except Exception as error:  # of errors that may quote the image only the name is told
        reason = str(error) if isinstance(error, RuntimeError) else f"the adapter failed: {type(error).__name__}"
        report(job, status="FAILED", error={"code": "ALGORITHM_FAILED", "message": reason[:500]})
    finally:
        done.set()
    sqs.delete_message(QueueUrl=QUEUE_URL, ReceiptHandle=message["ReceiptHandle"])


def keep(receipt_handle, done):
    """Extend the lease until the job is done."""
    while not done.wait(LEASE_S / 3):
        sqs.change_message_visibility(QueueUrl=QUEUE_URL, ReceiptHandle=receipt_handle, VisibilityTimeout=LEASE_S)


def fetch(pacs, folder):
    """The job's DICOM files: one for scope image, else all of the series."""
    images = f"{PACS_API_BASE}/studies/{pacs['study_id']}/images"
    if pacs["scope"] == "image":
        links = [get(f"{images}/{pacs['series_id']}/{pacs['image_id']}", PACS_KEY).json()]
    else:
        links = get(images, PACS_KEY, series_id=pacs.get("series_id")).json()
    folder.mkdir()
    for number, link in enumerate(links):
        (folder / f"{number:05}.dcm").write_bytes(get(link["url"], {}).content)  # signed: needs no key
    return folder


def get(url, headers, **query):
    answer = requests.get(url, params=query, headers=headers, timeout=60)
    if answer.status_code >= 500:
        raise requests.ConnectionError  # it may answer later
    if not answer.ok:
        raise RuntimeError(f"the PACS answered {answer.status_code}")
    return answer


def run(job, folder, output):
    """The program gets the file, or for more than one their folder, and the name of the file to write."""
    files = sorted(folder.iterdir())
    command = [PROGRAM, str(files[0] if len(files) == 1 else folder), str(output)]
    program = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
    print(json.dumps({"job_id": job["job_id"], "algo_id": ALGO_ID, "message": program.stderr[-2000:]}), flush=True)
    if program.returncode != 0:
        said = program.stderr.strip().splitlines() or ["the program gave no reason"]
        raise RuntimeError(f"{said[-1]} (exit status {program.returncode})")


def output_key(job):
    """{algo_id}/{study_id}/{series_id}/{image_id without .dcm}_{job_id}.dcm, without what the job doesn't name."""
    pacs, image = job["pacs"], (job["pacs"].get("image_id") or "").removesuffix(".dcm")
    name = f"{image}_{job['job_id']}" if image else job["job_id"]
    return "/".join(filter(None, [ALGO_ID, pacs["study_id"], pacs.get("series_id"), f"{name}.dcm"]))


def report(job, **said):
    body = json.dumps({"job_id": job["job_id"], "algo_id": ALGO_ID, "client_id": job["client_id"], **said})
    once = str(uuid.uuid4())  # a job may be replayed: never take its second result for the first
    ids = {"MessageGroupId": job["job_id"], "MessageDeduplicationId": once}
    sqs.send_message(QueueUrl=RESULT_QUEUE, MessageBody=body, **ids)


if __name__ == "__main__":
    main()
